//! The record of a container log: `STAMP SP stdout|stderr SP P|F SP TEXT LF`, the format that a kubelet parses.
//!
//! A line longer than [`MAX_TEXT`] is split over several records, tagged `P` (partial) but for the last, which is
//! `F` (full). Bytes are taken as they are: a container need not write UTF-8.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::stamp;

/// The most text of one record, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;

/// The most bytes that one record can have, its newline included.
pub const MAX_RECORD: usize = stamp::LEN + " stdout P ".len() + MAX_TEXT + 1;

/// Which of a container's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What comes after the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// More may come: an unfinished line waits for it.
    More,
    /// More cannot come before some of these bytes are taken: an unfinished line must go if nothing else can.
    Full,
    /// Nothing: an unfinished line ends here.
    End,
}

/// How far [`split`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Bytes of the input that the records cover.
    pub used: usize,
    /// Whether the last record was `P`, so that its line goes on.
    pub midline: bool,
}

/// Appends to `records` the records of the lines in `input`, all with the time `stamp`, as long as `records` stays
/// within `limit` bytes. `midline` is the [`Split::midline`] of the call before.
///
/// The texts do not depend on how a stream was cut into inputs, as long as no input was [`Then::Full`].
pub fn split(
    input: &[u8],
    then: Then,
    midline: bool,
    stamp: &str,
    output: Output,
    records: &mut Vec<u8>,
    limit: usize,
) -> Split {
    let head = format!("{stamp} {} ", output.as_str());
    let mut done = Split { used: 0, midline };
    while let Some(next) = next(&input[done.used..], then, done) {
        let text = &input[done.used..done.used + next.text];
        if records.len() + head.len() + 2 + text.len() + 1 > limit {
            break;
        }
        records.extend_from_slice(head.as_bytes());
        records.extend_from_slice(if next.partial { b"P " } else { b"F " });
        records.extend_from_slice(text);
        records.push(b'\n');
        done = Split {
            used: done.used + next.takes,
            midline: next.partial,
        };
    }
    done
}

/// One record to be.
struct Next {
    /// Bytes of text, at the beginning of what is left.
    text: usize,
    /// Bytes of the input that it covers: the text and its newline, if it has one.
    takes: usize,
    partial: bool,
}

fn next(rest: &[u8], then: Then, done: Split) -> Option<Next> {
    let record = |text, takes, partial| Some(Next { text, takes, partial });
    // One byte more than fits: a line of exactly the most text is one full record.
    if let Some(end) = newline(&rest[..rest.len().min(MAX_TEXT + 1)]) {
        return record(end, end + 1, false);
    }
    if rest.len() > MAX_TEXT {
        return record(MAX_TEXT, MAX_TEXT, true);
    }
    match then {
        Then::More => None,
        Then::Full if done.used > 0 || rest.is_empty() => None,
        Then::Full => record(rest.len(), rest.len(), true),
        Then::End if rest.is_empty() && !done.midline => None,
        Then::End => record(rest.len(), rest.len(), false),
    }
}

/// How much of `input` stands in `log`, the whole records that one [`split`] of it wrote there, from its beginning.
/// None when they are no records of this input. `midline` is the one that the split was given.
pub fn covered(log: &[u8], input: &[u8], midline: bool, output: Output) -> Option<Split> {
    let name = format!(" {} ", output.as_str());
    let mut done = Split { used: 0, midline };
    for record in log.split_inclusive(|byte| *byte == b'\n') {
        let rest = record.strip_suffix(b"\n")?.get(stamp::LEN..)?;
        let rest = rest.strip_prefix(name.as_bytes())?;
        let partial = rest.starts_with(b"P ");
        let text = rest.strip_prefix(if partial { b"P " } else { b"F " })?;
        let after = input[done.used..].strip_prefix(text)?;
        // Without one the record was the last of an output that had come to its end.
        let newline = usize::from(!partial && after.first() == Some(&b'\n'));
        done = Split {
            used: done.used + text.len() + newline,
            midline: partial,
        };
    }
    Some(done)
}

/// Where the first newline is. By way of `BufRead`, whose search is the C library's memchr(3).
fn newline(mut bytes: &[u8]) -> Option<usize> {
    let whole = bytes;
    let skipped = bytes.skip_until(b'\n').expect("a slice reads without error");
    let last = skipped.checked_sub(1)?;
    (whole[last] == b'\n').then_some(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAMP: &str = "2001-02-03T04:05:06.000000007Z";

    /// Feeds `chunks` through as the pump does: what was not used is seen again with the next chunk.
    fn feed(chunks: &[&[u8]], limit: usize) -> Vec<u8> {
        let (mut records, mut held, mut midline) = (Vec::new(), Vec::new(), false);
        let last = chunks.len().saturating_sub(1);
        for (i, chunk) in chunks.iter().enumerate() {
            held.extend_from_slice(chunk);
            let then = if i == last { Then::End } else { Then::More };
            loop {
                let mut batch = Vec::new();
                let done = split(&held, then, midline, STAMP, Output::Stdout, &mut batch, limit);
                held.drain(..done.used);
                midline = done.midline;
                if batch.is_empty() {
                    break;
                }
                assert!(batch.len() <= limit);
                records.extend(batch);
            }
        }
        assert!(held.is_empty());
        records
    }

    /// (tag, text) of each record.
    fn parse(records: &[u8]) -> Vec<(u8, &[u8])> {
        let head = format!("{STAMP} stdout ");
        let mut parsed = Vec::new();
        for record in records.split_inclusive(|byte| *byte == b'\n') {
            assert_eq!(record.last(), Some(&b'\n'));
            assert!(record.len() <= MAX_RECORD);
            let record = record[..record.len() - 1].strip_prefix(head.as_bytes()).unwrap();
            assert_eq!(record[1], b' ');
            parsed.push((record[0], &record[2..]));
        }
        parsed
    }

    /// What was fed in, as far as the records tell (a last line without newline gets one).
    fn joined(records: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for (tag, part) in parse(records) {
            text.extend_from_slice(part);
            if tag == b'F' {
                text.push(b'\n');
            }
        }
        text
    }

    #[test]
    fn lines_are_records_of_their_own() {
        let records = feed(&[b"hello\n\nwor", b"ld\nend"], 1 << 20);
        let expected =
            format!("{STAMP} stdout F hello\n{STAMP} stdout F \n{STAMP} stdout F world\n{STAMP} stdout F end\n");
        assert_eq!(String::from_utf8(records).unwrap(), expected);
    }

    #[test]
    fn only_a_line_over_the_limit_is_split() {
        for (length, tags) in [
            (MAX_TEXT - 1, "F"),
            (MAX_TEXT, "F"),
            (MAX_TEXT + 1, "PF"),
            (2 * MAX_TEXT, "PF"),
            (2 * MAX_TEXT + 1, "PPF"),
        ] {
            for newline in [&b"\n"[..], b""] {
                let line = vec![b'x'; length];
                let records = feed(&[&line, newline], 1 << 20);
                let seen: Vec<u8> = parse(&records).iter().map(|record| record.0).collect();
                assert_eq!(String::from_utf8(seen).unwrap(), tags, "{length}");
            }
        }
    }

    #[test]
    fn nothing_gives_no_record() {
        assert!(feed(&[b""], 1 << 20).is_empty());
        assert!(feed(&[], 1 << 20).is_empty());
    }

    #[test]
    fn a_full_pipe_without_a_line_gives_a_fragment_whose_line_is_ended_later() {
        let mut records = Vec::new();
        let full = split(b"abc", Then::Full, false, STAMP, Output::Stderr, &mut records, 1000);
        assert_eq!(full, Split { used: 3, midline: true });
        let end = split(b"", Then::End, full.midline, STAMP, Output::Stderr, &mut records, 1000);
        assert_eq!(
            end,
            Split {
                used: 0,
                midline: false
            }
        );
        let expected = format!("{STAMP} stderr P abc\n{STAMP} stderr F \n");
        assert_eq!(String::from_utf8(records).unwrap(), expected);
    }

    #[test]
    fn a_full_pipe_with_a_line_gives_only_the_line() {
        let mut records = Vec::new();
        let done = split(b"abc\nde", Then::Full, false, STAMP, Output::Stdout, &mut records, 1000);
        assert_eq!(
            done,
            Split {
                used: 4,
                midline: false
            }
        );
    }

    #[test]
    fn records_of_another_input_or_output_cover_nothing() {
        let mut log = Vec::new();
        split(b"one\ntwo\n", Then::More, false, STAMP, Output::Stdout, &mut log, 1000);
        let cover = |input: &[u8], output| covered(&log, input, false, output);
        let all = Split {
            used: 8,
            midline: false,
        };
        assert_eq!(cover(b"one\ntwo\nthree", Output::Stdout), Some(all));
        assert_eq!(cover(b"one\ntoo\n", Output::Stdout), None);
        assert_eq!(cover(b"one\n", Output::Stdout), None);
        assert_eq!(cover(b"one\ntwo\n", Output::Stderr), None);
        assert_eq!(covered(b"foreign\n", b"foreign\n", false, Output::Stdout), None);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[a-c\n]{0,20}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..50),
            1 => (MAX_TEXT - 2..MAX_TEXT + 3).prop_map(|n| vec![b'x'; n]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_chunking_gives_the_same_records_and_their_texts_are_the_stream(
            stream in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            limit in MAX_RECORD..2 * MAX_RECORD,
        ) {
            let whole = feed(&[&stream], 1 << 20);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(&feed(&chunks, limit), &whole);

            let mut expected = stream.clone();
            if stream.last().is_some_and(|last| *last != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(joined(&whole), expected);
            prop_assert!(parse(&whole).iter().all(|(_, text)| text.len() <= MAX_TEXT));
        }

        #[test]
        fn records_cover_what_was_split_to_make_them(
            stream in stream(),
            then in prop::sample::select(vec![Then::More, Then::Full, Then::End]),
            midline in any::<bool>(),
            limit in 0..50_000usize,
        ) {
            let mut records = Vec::new();
            let done = split(&stream, then, midline, STAMP, Output::Stderr, &mut records, limit);
            prop_assert_eq!(covered(&records, &stream, midline, Output::Stderr), Some(done));
        }

        #[test]
        fn what_fits_a_smaller_limit_is_a_beginning_of_what_fits_a_larger_one(stream in stream(), limit in 0..50_000usize) {
            let (mut all, mut some) = (Vec::new(), Vec::new());
            split(&stream, Then::More, false, STAMP, Output::Stdout, &mut all, usize::MAX);
            split(&stream, Then::More, false, STAMP, Output::Stdout, &mut some, limit);
            prop_assert!(some.len() <= limit && all.starts_with(&some));
        }
    }
}
