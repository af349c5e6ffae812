//! Addresses leased to pods, each a file named after the address that holds the pod's id.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::subnet::Ipv4Net;
use crate::model::Id;

/// The leases below one directory. Only one may be open at a time: the directory's owner sees to that.
pub struct Leases {
    dir: PathBuf,
    table: Mutex<Table>,
}

struct Table {
    /// None: berth was killed before it had written whose.
    held: BTreeMap<Ipv4Addr, Option<Id>>,
    /// The address given last.
    last: Ipv4Addr,
}

impl Leases {
    /// Reads what is leased below `dir`, which is made when missing.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                held.insert(address, fs::read_to_string(entry.path())?.parse().ok());
            }
        }
        let last = fs::read_to_string(dir.join("last"))
            .ok()
            .and_then(|text| text.parse().ok());
        let last = last.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let table = Mutex::new(Table { held, last });
        Ok(Self { dir, table })
    }

    /// An address of `subnet` for the pod `id`: the one it has, or the next free one. None: there is none.
    pub fn lease(&self, subnet: &Ipv4Net, id: &Id) -> io::Result<Option<Ipv4Addr>> {
        let mut table = self.table();
        if let Some(address) = table.of(id).find(|address| subnet.contains(*address)) {
            return Ok(Some(address));
        }
        let Some(address) = subnet.next_free(table.last, |address| table.held.contains_key(&address)) else {
            return Ok(None);
        };
        // O_EXCL: two leases of one address must be impossible, whatever the table says.
        let mut file = File::create_new(self.file(address))?;
        table.held.insert(address, Some(id.clone()));
        table.last = address;
        file.write_all(id.as_str().as_bytes())?;
        fs::write(self.dir.join("last"), address.to_string())?;
        Ok(Some(address))
    }

    /// Frees what the pod `id` holds.
    pub fn release(&self, id: &Id) -> io::Result<()> {
        let mut table = self.table();
        let addresses: Vec<_> = table.of(id).collect();
        addresses
            .into_iter()
            .try_for_each(|address| self.free(&mut table, address))
    }

    /// Frees what no pod of `live` holds.
    pub fn retain(&self, live: &HashSet<Id>) -> io::Result<()> {
        let mut table = self.table();
        let dead = |(address, holder): (&Ipv4Addr, &Option<Id>)| match holder {
            Some(id) if live.contains(id) => None,
            _ => Some(*address),
        };
        let addresses: Vec<_> = table.held.iter().filter_map(dead).collect();
        addresses
            .into_iter()
            .try_for_each(|address| self.free(&mut table, address))
    }

    /// Whether any address of `subnet` is leased.
    pub fn any_in(&self, subnet: &Ipv4Net) -> bool {
        self.table().held.keys().any(|address| subnet.contains(*address))
    }

    fn free(&self, table: &mut Table, address: Ipv4Addr) -> io::Result<()> {
        match fs::remove_file(self.file(address)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        table.held.remove(&address);
        Ok(())
    }

    fn file(&self, address: Ipv4Addr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is whole between any two of its changes.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(&self, id: &Id) -> impl Iterator<Item = Ipv4Addr> {
        self.held
            .iter()
            .filter(move |(_, holder)| holder.as_ref() == Some(id))
            .map(|(address, _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Ipv4Net {
        "10.0.0.0/29".parse().unwrap()
    }

    fn last_octet(leases: &Leases, id: &Id) -> Option<u8> {
        leases.lease(&net(), id).unwrap().map(|address| address.octets()[3])
    }

    #[test]
    fn a_lease_survives_a_restart_and_its_address_rests_when_freed() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second, third) = (Id::random(), Id::random(), Id::random());
        let leases = Leases::open(dir.path().join("leases")).unwrap();
        assert_eq!(last_octet(&leases, &first), Some(2));
        assert_eq!(last_octet(&leases, &second), Some(3));
        assert_eq!(last_octet(&leases, &first), Some(2));
        leases.release(&second).unwrap();
        leases.release(&second).unwrap();
        let leases = Leases::open(dir.path().join("leases")).unwrap();
        assert_eq!(last_octet(&leases, &first), Some(2));
        assert_eq!(last_octet(&leases, &third), Some(4));
    }

    #[test]
    fn a_full_subnet_gives_none_until_one_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path().into()).unwrap();
        let ids: Vec<_> = (0..5).map(|_| Id::random()).collect();
        assert!(ids.iter().all(|id| last_octet(&leases, id).is_some()));
        assert_eq!(last_octet(&leases, &Id::random()), None);
        leases.release(&ids[3]).unwrap();
        assert_eq!(last_octet(&leases, &Id::random()), Some(5));
    }

    #[test]
    fn leases_of_the_dead_and_unfinished_ones_are_freed() {
        let dir = tempfile::tempdir().unwrap();
        let (live, dead) = (Id::random(), Id::random());
        fs::write(dir.path().join("10.0.0.2"), "").unwrap();
        fs::write(dir.path().join("10.0.0.3"), live.as_str()).unwrap();
        fs::write(dir.path().join("10.0.0.4"), dead.as_str()).unwrap();
        let leases = Leases::open(dir.path().into()).unwrap();
        assert!(leases.any_in(&net()));
        leases.retain(&HashSet::from([live])).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["10.0.0.3"]);
        assert!(!leases.any_in(&"10.0.1.0/29".parse().unwrap()));
    }
}
