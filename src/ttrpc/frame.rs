//! The frames of ttrpc: a header of ten bytes (length and stream, both 32 bits big-endian, type, flags), then as many
//! bytes as the length says (PROTOCOL.md of containerd/ttrpc). Pure: bytes in, frames out.

use serde::{Deserialize, Serialize};

/// The longest body (`messageLengthMax` in ttrpc's channel.go).
pub const MAX_BODY: usize = 4 << 20;
const HEADER: usize = 10;
/// What the decoder keeps allocated when it is empty.
const KEEP: usize = 8 << 10;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    Data,
    /// To be ignored: ttrpc may get more of them.
    Unknown(u8),
}

impl Kind {
    fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Unknown(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
            Self::Unknown(other) => other,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub stream: u32,
    pub kind: Kind,
    pub flags: u8,
    pub body: Vec<u8>,
}

/// The frame's bytes; None when `body` is longer than [`MAX_BODY`], for such a frame would be refused.
pub fn encode(stream: u32, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > MAX_BODY {
        return None;
    }
    let length = u32::try_from(body.len()).ok()?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind.to_wire(), 0]);
    bytes.extend(body);
    Some(bytes)
}

/// What came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Frame(Frame),
    /// A frame longer than [`MAX_BODY`]. Its body is skipped as it comes.
    Oversized {
        stream: u32,
        length: u32,
    },
}

impl Received {
    pub fn stream(&self) -> u32 {
        match self {
            Self::Frame(frame) => frame.stream,
            Self::Oversized { stream, .. } => *stream,
        }
    }
}

/// Makes frames of the bytes of a connection, however they are split.
///
/// It holds one frame and what was pushed since [`Decoder::take`] last said None, so its memory is bounded when every
/// push is of bounded length and followed by takes until there is nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the head of the buffer that have been taken.
    taken: usize,
    /// Bytes of an oversized body that are still to come.
    skip: usize,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next frame, if all of it is there.
    pub fn take(&mut self) -> Option<Received> {
        let received = self.parse();
        if received.is_none() {
            self.compact();
        }
        received
    }

    fn parse(&mut self) -> Option<Received> {
        let pending = &self.buffer[self.taken..];
        let (header, rest) = pending.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, e, f, g, h, kind, flags] = *header;
        let length = u32::from_be_bytes([a, b, c, d]);
        let stream = u32::from_be_bytes([e, f, g, h]);
        let size = length as usize;
        if size > MAX_BODY {
            let there = size.min(rest.len());
            self.skip = size - there;
            self.taken += HEADER + there;
            return Some(Received::Oversized { stream, length });
        }
        let body = rest.get(..size)?.to_vec();
        self.taken += HEADER + size;
        Some(Received::Frame(Frame {
            stream,
            kind: Kind::from_wire(kind),
            flags,
            body,
        }))
    }

    /// Forgets what was taken, and gives memory back that only a long frame needed.
    fn compact(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.len() < KEEP && self.buffer.capacity() > KEEP {
            self.buffer.shrink_to(KEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Received> {
        let mut decoder = Decoder::default();
        let mut received = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(one) = decoder.take() {
                received.push(one);
            }
        }
        received
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let body = prop::collection::vec(any::<u8>(), 0..300);
        let frame = (any::<u32>(), 0..6u8, body).prop_map(|(stream, kind, body)| Frame {
            stream,
            kind: Kind::from_wire(kind),
            flags: 0,
            body,
        });
        prop::collection::vec(frame, 0..8)
    }

    proptest! {
        #[test]
        fn any_split_of_any_frames_decodes_to_the_same_frames(
            frames in frames(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|frame| encode(frame.stream, frame.kind, &frame.body).unwrap())
                .collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let expected: Vec<_> = frames.into_iter().map(Received::Frame).collect();
            prop_assert_eq!(decode(&pieces), expected);
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_more_than_a_frame(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..40),
        ) {
            let mut decoder = Decoder::default();
            for piece in &pieces {
                decoder.push(piece);
                while decoder.take().is_some() {}
                prop_assert!(decoder.buffer.len() < HEADER + MAX_BODY);
            }
        }
    }

    #[test]
    fn a_truncated_frame_waits_for_its_rest() {
        let bytes = encode(7, Kind::Request, b"hello").unwrap();
        for end in 0..bytes.len() {
            assert_eq!(decode(&[&bytes[..end]]), []);
            assert_eq!(decode(&[&bytes[..end], &bytes[end..]]).len(), 1);
        }
    }

    #[test]
    fn an_oversized_frame_is_told_and_skipped_without_being_held() {
        let length = u32::try_from(MAX_BODY + 1).unwrap();
        let mut header = length.to_be_bytes().to_vec();
        header.extend([0, 0, 0, 9, 1, 0]);
        let mut decoder = Decoder::default();
        decoder.push(&header);
        assert_eq!(decoder.take(), Some(Received::Oversized { stream: 9, length }));
        let chunk = vec![1; 64 << 10];
        let mut left = MAX_BODY + 1;
        while left > 0 {
            let now = left.min(chunk.len());
            decoder.push(&chunk[..now]);
            assert_eq!(decoder.take(), None);
            assert!(decoder.buffer.capacity() <= KEEP, "{}", decoder.buffer.capacity());
            left -= now;
        }
        let next = encode(11, Kind::Request, b"next").unwrap();
        decoder.push(&next);
        assert_eq!(decoder.take().unwrap().stream(), 11);
    }

    #[test]
    fn the_longest_frame_passes_and_its_memory_is_given_back() {
        let body = vec![5; MAX_BODY];
        let bytes = encode(1, Kind::Response, &body).unwrap();
        let mut decoder = Decoder::default();
        for chunk in bytes.chunks(64 << 10) {
            decoder.push(chunk);
            if let Some(Received::Frame(frame)) = decoder.take() {
                assert_eq!(frame.body, body);
            }
            assert!(decoder.buffer.capacity() <= 2 * (HEADER + MAX_BODY));
        }
        assert_eq!(decoder.take(), None);
        assert!(decoder.buffer.capacity() <= KEEP);
        assert_eq!(encode(1, Kind::Response, &vec![5; MAX_BODY + 1]), None);
    }
}
