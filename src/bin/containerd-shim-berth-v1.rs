//! The shim's own binary; see `berth::shim`.

fn main() -> std::process::ExitCode {
    berth::shim::main()
}
