//! A web server with one page.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::Command,
    time::Duration,
};

/// What the server calls itself: tests tell it by that from other processes.
pub(crate) const MASTER: &str = "nginx: master process nginx";
/// Where it is started from, so that the kernel calls it `nginx` too.
const PROGRAM: &str = "/bin/nginx";
const PID_FILE: &str = "/var/run/nginx.pid";
const PAGE: &str = "<h1>Welcome to nginx!</h1>\n";
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// Executes itself under the server's name.
pub(crate) fn become_master(words: &[String]) -> io::Result<bool> {
    Err(Command::new(PROGRAM).arg0(MASTER).args(words).exec())
}

/// Serves until it is ended.
pub(crate) fn serve(words: &[String]) -> io::Result<bool> {
    let port = match words.first() {
        Some(word) => word.parse().map_err(io::Error::other)?,
        None => 80,
    };
    // Both families, where the machine has both.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    fs::write(PID_FILE, format!("{}\n", std::process::id()))?;
    for client in listener.incoming() {
        // A client that goes away early is no concern of the others.
        let _ = client.and_then(answer);
    }
    Ok(true)
}

fn answer(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    for line in BufReader::new(client.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{PAGE}",
        PAGE.len()
    )
}
