//! `berth image`: pull, import, ls, rm.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Error, connect};
use crate::proto::berth::images_client::ImagesClient;
use crate::proto::berth::import_images_request::Part;
use crate::proto::berth::pull_image_response::Event;
use crate::proto::berth::{
    Image, ImageCredentials, ImportImagesOptions, ImportImagesRequest, ListImagesRequest, PullImageRequest,
    RemoveImageRequest,
};

/// Images of this node.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch an image from its registry
    Pull {
        reference: String,
        /// User name at the registry; the password is read from standard input
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Make images of an archive (docker save or OCI layout)
    Import {
        /// A file, or - for standard input
        archive: PathBuf,
        /// Name for the archive's only image
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
    },
    /// List the images
    Ls {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Remove images with all their names
    Rm {
        /// Tags, digests, ids or beginnings of ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Bytes of an archive in one message.
const CHUNK: usize = 256 << 10;

pub async fn run(args: ImageArgs, socket: &Path) -> Result<ExitCode, Error> {
    let client = ImagesClient::new(connect(socket).await?);
    match args.command {
        Command::Pull { reference, user } => pull(client, reference, user).await?,
        Command::Import { archive, tag } => import(client, &archive, tag).await?,
        Command::Ls { output } => list(client, output).await?,
        Command::Rm { images } => remove(client, images).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(mut client: ImagesClient<Channel>, reference: String, user: Option<String>) -> Result<(), Error> {
    let credentials = user.map(read_credentials).transpose()?;
    let request = PullImageRequest { reference, credentials };
    let mut events = client.pull(request).await?.into_inner();
    let mut progress = Line::default();
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Resolved(digest)) => progress.show(&format!("resolved {digest}")),
            Some(Event::Fetching(blob)) => {
                let (done, size) = (human(blob.done), human(blob.size));
                progress.show(&format!("fetching {} {done} of {size}", short(&blob.digest)));
            }
            Some(Event::Unpacked(unpacked)) => {
                progress.show(&format!("unpacked {} of {} layers", unpacked.layers, unpacked.of));
            }
            Some(Event::Done(image)) => {
                progress.clear();
                print(&[names(&image).join(" "), image.id].join("\t"))?;
            }
            None => {}
        }
    }
    Ok(())
}

fn read_credentials(username: String) -> Result<ImageCredentials, Error> {
    let mut password = String::new();
    let read = std::io::stdin().read_line(&mut password);
    read.map_err(Error::io("reading the password"))?;
    Ok(ImageCredentials {
        username,
        password: password.trim_end_matches(['\r', '\n']).to_owned(),
    })
}

async fn import(mut client: ImagesClient<Channel>, archive: &Path, tag: Option<String>) -> Result<(), Error> {
    let mut file: Box<dyn Read + Send> = if archive == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let file = std::fs::File::open(archive);
        Box::new(file.map_err(Error::io(archive.display().to_string()))?)
    };
    let (sender, receiver) = mpsc::channel(4);
    let part = |part| ImportImagesRequest { part: Some(part) };
    let tag = tag.unwrap_or_default();
    sender
        .try_send(part(Part::Options(ImportImagesOptions { tag })))
        .expect("the queue takes four");
    let reading = tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut chunk)?;
            // The daemon's refusal comes as the call's answer.
            if chunk.is_empty() || sender.blocking_send(part(Part::Data(chunk))).is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    });
    let answer = client.import(ReceiverStream::new(receiver)).await;
    // A refusal may come while the reader still waits for input.
    if answer.is_ok() || reading.is_finished() {
        let read = reading.await.expect("reading does not panic");
        read.map_err(Error::io(archive.display().to_string()))?;
    }
    for image in answer?.into_inner().images {
        print(&[names(&image).join(" "), image.id].join("\t"))?;
    }
    Ok(())
}

async fn list(mut client: ImagesClient<Channel>, output: Output) -> Result<(), Error> {
    let images = client.list(ListImagesRequest {}).await?.into_inner().images;
    match output {
        Output::Json => {
            let images: Vec<_> = images
                .iter()
                .map(|image| {
                    json!({
                        "id": image.id, "repoTags": image.repo_tags,
                        "repoDigests": image.repo_digests, "size": image.size,
                    })
                })
                .collect();
            print(&serde_json::Value::from(images).to_string())
        }
        Output::Table => print(&table(&images)),
    }
}

async fn remove(mut client: ImagesClient<Channel>, images: Vec<String>) -> Result<(), Error> {
    for image in images {
        client.remove(RemoveImageRequest { image }).await?;
    }
    Ok(())
}

/// A row for each name of each image.
fn table(images: &[Image]) -> String {
    let mut rows = vec![["REPOSITORY:TAG".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        for name in names(image) {
            rows.push([name, short(&image.id).to_owned(), human(image.size)]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (name, id) = (width(0), width(1));
    let lines = rows
        .iter()
        .map(|row| format!("{:name$}   {:id$}   {}", row[0], row[1], row[2]));
    lines.collect::<Vec<_>>().join("\n")
}

/// Its tags; an image without any is shown by its digest.
fn names(image: &Image) -> Vec<String> {
    if image.repo_tags.is_empty() {
        image.repo_digests.iter().take(1).cloned().collect()
    } else {
        image.repo_tags.clone()
    }
}

/// The first 13 digits, which name an image well enough.
fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..13).unwrap_or(hex)
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

fn print(text: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Error::io("writing the answer"))
}

/// One line of progress, on a terminal alone.
#[derive(Default)]
struct Line {
    shown: usize,
}

impl Line {
    fn show(&mut self, text: &str) {
        let mut terminal = std::io::stderr().lock();
        if terminal.is_terminal() {
            let width = self.shown;
            // A terminal that is gone takes nothing with it.
            let _ = write!(terminal, "\r{text:width$}").and_then(|()| terminal.flush());
            self.shown = text.len();
        }
    }

    fn clear(&mut self) {
        if self.shown > 0 {
            self.show("");
            let _ = write!(std::io::stderr(), "\r");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_name() {
        let image = |tags: &[&str], size| Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: vec!["r/x@sha256:1".to_owned()],
            size,
        };
        let shown = table(&[image(&["r/a:1", "r/b:2"], 999), image(&[], 1_234_567)]);
        assert_eq!(
            shown,
            "REPOSITORY:TAG   ID              SIZE\n\
             r/a:1            ababababababa   999B\n\
             r/b:2            ababababababa   999B\n\
             r/x@sha256:1     ababababababa   1.2MB"
        );
    }
}
