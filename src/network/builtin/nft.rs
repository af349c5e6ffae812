//! Masquerading of what pods send to the world, in an nftables table of this instance's own.
//!
//! There is no rule that accepts forwarded packets: an accept in one table does not overrule a drop in another (the
//! one of a firewall with a forward policy of drop), and where nobody drops none is needed.

use std::fmt::Write;
use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::subnet::Ipv4Net;
use crate::network::{Error, failed};

/// Makes the table, or makes it anew, in one transaction.
pub async fn masquerade(instance: &str, subnets: &[Ipv4Net]) -> Result<(), Error> {
    run(&ruleset(instance, subnets)).await
}

/// Removes the table. Fine when it is gone.
pub async fn remove(instance: &str) -> Result<(), Error> {
    run(&absent(instance)).await
}

fn ruleset(instance: &str, subnets: &[Ipv4Net]) -> String {
    let mut text = absent(instance);
    let _infallible = write!(
        text,
        "table ip berth_{instance} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n"
    );
    for subnet in subnets {
        // Pods see each other's true addresses, and multicast has none to give back.
        let _infallible = writeln!(
            text,
            "\t\tip saddr {subnet} ip daddr != {{ {subnet}, 224.0.0.0/4 }} oifname != \"berth-{instance}\" masquerade"
        );
    }
    text.push_str("\t}\n}\n");
    text
}

/// Deletes the table if it is there: declaring one that exists changes nothing (nft(8)).
fn absent(instance: &str) -> String {
    format!("table ip berth_{instance} {{}}\ndelete table ip berth_{instance}\n")
}

async fn run(ruleset: &str) -> Result<(), Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("run nft (is the package nftables installed?)"))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    match stdin.write_all(ruleset.as_bytes()).await {
        // nft has ended: it says why.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed("write to nft")(error)),
        _ => drop(stdin),
    }
    let output = child.wait_with_output().await.map_err(failed("wait for nft"))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Nft { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let subnets = ["10.210.0.0/16".parse().unwrap()];
        let text = ruleset("0a1b2c", &subnets);
        assert!(text.starts_with("table ip berth_0a1b2c {}\ndelete table ip berth_0a1b2c\n"));
        let rule =
            "ip saddr 10.210.0.0/16 ip daddr != { 10.210.0.0/16, 224.0.0.0/4 } oifname != \"berth-0a1b2c\" masquerade";
        assert!(text.contains(rule));
        assert_eq!(text.matches("masquerade").count(), 1);
    }
}
