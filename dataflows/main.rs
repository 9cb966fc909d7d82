//! The binary `tidegate`: a thin command line over the library.

mod checkpoint;
mod cluster;
mod commands;
mod connect;
mod consumer;
mod demo;
mod fit;
mod land;
mod lanes;
mod outlet;
mod publish;
mod report;
mod start;
mod verify;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps warehouse tables identical to MySQL tables, through Kafka, in order, and proves it.
#[derive(Parser)]
#[command(version, disable_help_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print help
    #[arg(long, global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Subcommand)]
enum Command {
    /// Everything embedded, no server: a seeded shop's changes travel from DTS to a verified target
    Demo(demo::Demo),
    /// Source → Kafka
    Publish(Job),
    /// Kafka → target
    Land(Job),
    /// Source ≟ target: 0 identical, 1 different, 2 undecided, 3 could not compare
    Verify(VerifyJob),
}

/// What every job takes.
#[derive(Args)]
struct Job {
    /// The configuration file
    #[arg(long)]
    config: PathBuf,
    /// Stop when the end that is there at the start is durable
    #[arg(long)]
    until_caught_up: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// What `verify` takes.
#[derive(Args)]
struct VerifyJob {
    /// The configuration file
    #[arg(long)]
    config: PathBuf,
    /// The report as JSON lines
    #[arg(long)]
    json: bool,
    /// Write SQL to this file that makes the target equal
    #[arg(long, value_name = "FILE")]
    repair: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

/// How many workers, in how many processes.
#[derive(Args, Clone)]
struct Cluster {
    /// Worker threads of each process
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Processes of the cluster
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    processes: u32,
    /// The number of this process, from 0
    #[arg(short, long, default_value_t = 0)]
    process: u32,
    /// A file with one host:port a line, in the order of process numbers; without it localhost, ports from 2101
    #[arg(short, long)]
    hosts: Option<PathBuf>,
}

fn main() {
    tracing_subscriber::fmt()
        // librdkafka reports the end of a partition and a closing broker as errors; who names it in RUST_LOG sees it all.
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!(
            "warn,rdkafka=off,librdkafka=off,{}",
            std::env::var("RUST_LOG").unwrap_or_default()
        )))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Not clap's own exit code: 2 says of verify that it is undecided.
    let cli = Cli::try_parse().unwrap_or_else(|usage| {
        let _ = usage.print();
        std::process::exit(if usage.use_stderr() { 3 } else { 0 })
    });
    let outcome = match cli.command {
        Command::Demo(demo) => demo::demo(&demo).map(|identical| std::process::exit(i32::from(!identical))),
        Command::Publish(job) => commands::publish(&job),
        Command::Land(job) => commands::land(&job),
        Command::Verify(job) => commands::verify(&job).map(|outcome| std::process::exit(outcome.exit_code().into())),
    };
    if let Err(error) = outcome {
        cluster::fail(&format_args!("{error:#}"));
    }
}
