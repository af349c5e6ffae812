//! ttrpc, containerd's RPC for shims: protobuf over a unix stream, without HTTP.
