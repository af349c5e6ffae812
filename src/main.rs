use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [command, option, socket] = arguments.as_slice() else {
        return ExitCode::from(2);
    };
    if command != "log-pump" || option != "--socket" {
        return ExitCode::from(2);
    }
    match berth::logs::serve(Path::new(socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth log-pump: {error}");
            ExitCode::FAILURE
        }
    }
}
