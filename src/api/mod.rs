//! The gRPC face of berth's own API, `berth.v1`.

pub mod images;
