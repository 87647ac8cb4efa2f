//! The test host: a disposable machine with a usable KVM.
//!
//! Whole-node tests make virtual machines, bridges, name spaces, control groups
//! and mounts. They do it in here: a QEMU machine over this machine's own root
//! file system, read-only below an overlay in memory, with a `/dev/kvm` that runs
//! stock guests whether or not this machine's does. See README.md for how to use
//! it; the modules tell how each part works.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )
)]

mod accel;
mod cli;
mod client;
mod cpio;
mod events;
mod initramfs;
mod instance;
mod modules;
mod probe;
mod qemu;
mod serve;
mod wire;

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use anyhow::Result;
use clap::Parser;

use cli::{Action, Cli};
use client::Gone;
use events::Event;
use instance::{Guard, Instance};

/// Of this program itself, as opposed to the command's.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("testhost: {error:#}");
            ExitCode::from(OWN_FAILURE)
        }
    }
}

/// Returns the exit status.
fn act(cli: Cli) -> Result<i32> {
    if let Action::Serve {
        token_file,
        port,
        netns,
    } = &cli.action
    {
        serve::serve(token_file, *port, netns)?;
        return Ok(0);
    }
    let (sender, events) = events::queue()?;
    match cli.action {
        Action::Up { boot } => {
            let instance = Instance::new(&cli.name)?;
            if instance.process().is_some() {
                eprintln!("testhost: {} is already up", cli.name);
                return Ok(0);
            }
            let before = Instant::now();
            instance.start(&boot.options(), false, &events)?;
            let seconds = before.elapsed().as_secs_f64();
            eprintln!(
                "testhost: {} is up after {seconds:.1} s, {}",
                cli.name,
                instance.accel()
            );
            Ok(0)
        }
        Action::Exec { command } => exec(
            &Instance::new(&cli.name)?,
            command.command()?,
            sender,
            &events,
        ),
        Action::Shell => exec(&Instance::new(&cli.name)?, cli::shell()?, sender, &events),
        Action::Run { boot, command } => {
            let command = command.command()?;
            let instance = Instance::of_this_process()?;
            instance.start(&boot.options(), true, &events)?;
            let _guard = Guard(&instance);
            exec(&instance, command, sender, &events)
        }
        Action::Down => {
            if !Instance::new(&cli.name)?.stop()? {
                eprintln!("testhost: {} was not up", cli.name);
            }
            Ok(0)
        }
        Action::Status => {
            let instance = Instance::new(&cli.name)?;
            let Some(process) = instance.process() else {
                eprintln!("testhost: {} is down", cli.name);
                return Ok(1);
            };
            eprintln!(
                "testhost: {} is up: process {}, {}, console in {}",
                cli.name,
                process.id,
                instance.accel(),
                instance.console().display()
            );
            Ok(0)
        }
        Action::Serve { .. } => Ok(0),
    }
}

/// Runs a command in a host that is up. A host that dies of it says why.
fn exec(
    instance: &Instance,
    command: client::Command,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<i32> {
    client::run(&instance.endpoint()?, command, sender, events).map_err(|error| {
        if !error.is::<Gone>() {
            return error;
        }
        match instance.last_words() {
            Some(words) => error.context(format!("the test host has died\n{words}")),
            None => error,
        }
    })
}
