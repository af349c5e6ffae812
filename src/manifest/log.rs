//! A container's log, read back: what the container wrote, out of the records of the CRI log format
//! (`STAMP SP stdout|stderr SP P|F SP TEXT LF`).

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{self, AsyncReadExt, AsyncSeekExt};

/// How often a followed log is looked at for more.
const POLL: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A log that is being read.
pub struct LogReader {
    file: File,
    /// The beginning of a record whose end was not there yet.
    held: Vec<u8>,
}

impl LogReader {
    /// Opens a log. `tail`: only the last so many records (lines, but that one of more than 16 KiB is several).
    pub async fn open(path: &Path, tail: Option<u32>) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        if let Some(tail) = tail {
            let start = tail_start(&mut file, tail).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(Self { file, held: Vec::new() })
    }

    /// More of what the container wrote; None: there is no more for now.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let before = self.held.len();
            let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.held).await?;
            let Some(end) = self.held[before..].iter().rposition(|byte| *byte == b'\n') else {
                if read == 0 {
                    return Ok(None);
                }
                continue;
            };
            let rest = self.held.split_off(before + end + 1);
            let records = std::mem::replace(&mut self.held, rest);
            return Ok(Some(texts(&records)));
        }
    }

    /// Like `next`, but waits for more until `over` says that none will come. None: the end.
    pub async fn follow(&mut self, over: impl Fn() -> bool) -> io::Result<Option<Vec<u8>>> {
        loop {
            // Asked before reading: what is written before the end is read after it.
            let last = over();
            match self.next().await? {
                None if last => return Ok(None),
                None => tokio::time::sleep(POLL).await,
                text => return Ok(text),
            }
        }
    }
}

/// The texts of whole records, a newline after each full line.
fn texts(records: &[u8]) -> Vec<u8> {
    let mut texts = Vec::with_capacity(records.len());
    for record in records.split_inclusive(|byte| *byte == b'\n') {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        match parse(record) {
            Some((b"P", text)) => texts.extend_from_slice(text),
            Some((_, text)) => texts.extend([text, b"\n"].concat()),
            // Not berth's; shown as it is rather than hidden.
            None => texts.extend([record, b"\n"].concat()),
        }
    }
    texts
}

/// Tag and text of a record.
fn parse(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = record.splitn(4, |byte| *byte == b' ');
    let (_stamp, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = matches!(stream, b"stdout" | b"stderr") && matches!(tag, b"P" | b"F");
    known.then_some((tag, text))
}

/// Where the last `count` records begin.
async fn tail_start(file: &mut File, count: u32) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    // The newline of the last record of all ends none before it.
    let mut wanted = u64::from(count) + 1;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        file.seek(SeekFrom::Start(start)).await?;
        block.clear();
        (&mut *file).take(end - start).read_to_end(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HEAD: &str = "2001-02-03T04:05:06.000000007Z";

    async fn read(path: &Path, tail: Option<u32>) -> String {
        let mut reader = LogReader::open(path, tail).await.unwrap();
        let mut all = Vec::new();
        while let Some(text) = reader.next().await.unwrap() {
            all.extend(text);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn texts_are_joined_and_the_tail_is_the_last_records() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let log = format!(
            "{HEAD} stdout F one\n{HEAD} stderr P tw\n{HEAD} stderr F o\nodd\n{HEAD} stdout F \n{HEAD} stdout F half"
        );
        fs::write(&path, log).unwrap();
        assert_eq!(read(&path, None).await, "one\ntwo\nodd\n\n");
        fs::write(&path, format!("{HEAD} stdout F a\n{HEAD} stdout F b b\n")).unwrap();
        for (tail, expected) in [
            (0, ""),
            (1, "b b\n"),
            (2, "a\nb b\n"),
            (3, "a\nb b\n"),
            (u32::MAX, "a\nb b\n"),
        ] {
            assert_eq!(read(&path, Some(tail)).await, expected, "{tail}");
        }
    }

    #[tokio::test]
    async fn the_tail_of_a_long_log_spans_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let log: String = (0..10_000).map(|i| format!("{HEAD} stdout F line {i}\n")).collect();
        fs::write(&path, log).unwrap();
        let expected: String = (4000..10_000).map(|i| format!("line {i}\n")).collect();
        assert_eq!(read(&path, Some(6000)).await, expected);
        assert_eq!(read(&path, None).await.lines().count(), 10_000);
    }

    #[tokio::test]
    async fn a_followed_log_ends_after_the_last_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(&path, format!("{HEAD} stdout F a\n{HEAD} std")).unwrap();
        let mut reader = LogReader::open(&path, None).await.unwrap();
        assert_eq!(reader.follow(|| false).await.unwrap().unwrap(), b"a\n");
        fs::write(&path, format!("{HEAD} stdout F a\n{HEAD} stdout F b\n")).unwrap();
        assert_eq!(reader.follow(|| true).await.unwrap().unwrap(), b"b\n");
        assert_eq!(reader.follow(|| true).await.unwrap(), None);
    }
}
