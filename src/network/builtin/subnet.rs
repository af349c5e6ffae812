//! IPv4 subnets, and the choice of one for this node's pods.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A subnet: its first address and the length of its prefix. Written `10.210.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    first: u32,
    prefix: u8,
}

/// A text that is not a subnet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 subnet such as 10.210.0.0/16 (its first address, and 0 to 32 bits of prefix)")]
pub struct NotASubnet(String);

impl Ipv4Net {
    /// The subnet of `prefix` bits (32 at most) that `address` is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            first: u32::from(address) & mask(prefix),
            prefix,
        }
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The node's own address in the subnet: the first after the subnet's own.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first.saturating_add(1))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.first
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let prefix = mask(self.prefix.min(other.prefix));
        self.first & prefix == other.first & prefix
    }

    /// Whether there is room for the gateway and a pod.
    pub fn has_room(&self) -> bool {
        self.prefix <= 30
    }

    /// The first address after `last` that a pod may have and that is not `taken`. Goes round, so that an address
    /// that was freed rests as long as possible.
    pub fn next_free(&self, last: Ipv4Addr, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        if !self.has_room() {
            return None;
        }
        // Between the gateway and the broadcast address, both excluded.
        let (low, high) = (self.first + 2, self.first + (!mask(self.prefix) - 1));
        let start = match u32::from(last) {
            last if (low..high).contains(&last) => last + 1,
            _ => low,
        };
        (start..=high)
            .chain(low..start)
            .map(Ipv4Addr::from)
            .find(|address| !taken(*address))
    }
}

/// The first of 10.210.0.0/16 to 10.219.0.0/16 that overlaps nothing of `taken`.
pub fn choose(taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    (210..=219)
        .map(|second| Ipv4Net::around(Ipv4Addr::new(10, second, 0, 0), 16))
        .find(|subnet| !taken.iter().any(|other| subnet.overlaps(other)))
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Ipv4Net {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            let subnet = Self::around(address, prefix);
            (subnet.first == u32::from(address)).then_some(subnet)
        };
        parse().ok_or_else(|| NotASubnet(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = NotASubnet;

    fn try_from(text: String) -> Result<Self, NotASubnet> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(subnet: Ipv4Net) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_parses_back_and_other_texts_do_not() {
        for text in ["10.210.0.0/16", "0.0.0.0/0", "192.0.2.4/30", "1.2.3.4/32"] {
            assert_eq!(net(text).to_string(), text);
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/0",
            "10.0.0.0/8/8",
            "a/8",
        ] {
            assert!(text.parse::<Ipv4Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_subnet_that_overlaps_nothing_is_chosen() {
        let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect::<Vec<_>>();
        assert_eq!(choose(&[]), Some(net("10.210.0.0/16")));
        assert_eq!(
            choose(&nets(&["192.168.0.0/16", "10.0.0.0/24"])),
            Some(net("10.210.0.0/16"))
        );
        assert_eq!(choose(&nets(&["10.210.7.0/24"])), Some(net("10.211.0.0/16")));
        assert_eq!(
            choose(&nets(&["10.210.0.0/15", "10.212.1.2/32"])),
            Some(net("10.213.0.0/16"))
        );
        assert_eq!(choose(&nets(&["10.0.0.0/8"])), None);
    }

    #[test]
    fn the_smallest_subnet_has_one_address_for_a_pod() {
        let subnet = net("192.0.2.4/30");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 0, 2, 5));
        let only = Ipv4Addr::new(192, 0, 2, 6);
        assert_eq!(subnet.next_free(only, |_| false), Some(only));
        assert_eq!(subnet.next_free(only, |address| address == only), None);
        for small in ["192.0.2.4/31", "192.0.2.4/32"] {
            assert!(!net(small).has_room());
            assert_eq!(net(small).next_free(only, |_| false), None);
        }
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let subnet = net("10.0.0.0/29");
        let mut last = Ipv4Addr::UNSPECIFIED;
        let mut given = Vec::new();
        for _ in 0..6 {
            last = subnet.next_free(last, |_| false).unwrap();
            given.push(last.octets()[3]);
        }
        assert_eq!(given, [2, 3, 4, 5, 6, 2]);
    }

    proptest! {
        #[test]
        fn every_pod_address_is_given_once_before_the_subnet_is_full(
            prefix in 24..=30u8,
            base in any::<u32>(),
            last in any::<u32>(),
        ) {
            let subnet = Ipv4Net::around(base.into(), prefix);
            let mut taken = BTreeSet::new();
            let mut last = Ipv4Addr::from(last);
            while let Some(address) = subnet.next_free(last, |address| taken.contains(&address)) {
                prop_assert!(subnet.contains(address) && address != subnet.gateway());
                prop_assert!(taken.insert(address));
                last = address;
            }
            prop_assert_eq!(taken.len(), (1usize << (32 - prefix)) - 3);
        }

        #[test]
        fn overlap_is_containing_either_first_address(
            a in any::<u32>(),
            b in any::<u32>(),
            p in 0..=32u8,
            q in 0..=32u8,
        ) {
            let (a, b) = (Ipv4Net::around(a.into(), p), Ipv4Net::around(b.into(), q));
            let contains = a.contains(b.first.into()) || b.contains(a.first.into());
            prop_assert_eq!(a.overlaps(&b), contains);
            prop_assert_eq!(b.overlaps(&a), contains);
        }
    }
}
