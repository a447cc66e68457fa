//! Downloads into the cache folder.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use super::files::{Hash, sha256_of};
use super::info::{DatasetInfo, RemoteFile};
use crate::{AtomicFile, DataError};

/// Where [`fetch`] gets files from and puts them.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// The cache folder; every dataset has a subfolder, laid out like the data folder.
    pub cache_dir: PathBuf,
    /// A mirror: files are taken from `BASE/FILE` instead of their published address.
    pub base_url: Option<String>,
    /// An HTTP proxy, such as `http://proxy.example:3128`.
    pub proxy: Option<String>,
}

/// Downloads the files of a dataset that are not in the cache folder yet, and returns the paths of all
/// of them; none for an embedded dataset.
///
/// Every file is checked for its length and sha256 before it gets its name, so an interrupted or wrong
/// download leaves nothing behind.
///
/// # Errors
/// If the dataset is unknown, the folder cannot be written, the server does not answer or answers with
/// an error, or the file that it sends is another one.
pub fn fetch(name: &str, options: &FetchOptions) -> Result<Vec<PathBuf>, DataError> {
    let info = DatasetInfo::find(name)?;
    let folder = options.cache_dir.join(info.folder);
    let agent = agent(options.proxy.as_deref())?;
    let fetch_one = |file: &RemoteFile| {
        let target = folder.join(file.name);
        let parent = target.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(DataError::io(parent, "create"))?;
        if !target.is_file() || sha256_of(&target)? != file.sha256 {
            let url = match &options.base_url {
                Some(base) => format!("{}/{}", base.trim_end_matches('/'), file.name),
                None if file.url.is_empty() => return Err(unpublished(file)),
                None => file.url.to_owned(),
            };
            download(&agent, &url, file, &target)?;
        }
        Ok(target)
    };
    info.files.iter().map(fetch_one).collect()
}

fn unpublished(file: &RemoteFile) -> DataError {
    let reason = "no server publishes this file by itself; give a mirror that has it".to_owned();
    DataError::Download { url: file.name.to_owned(), reason }
}

fn agent(proxy: Option<&str>) -> Result<Agent, DataError> {
    let failed = |e: ureq::Error| DataError::Download {
        url: proxy.unwrap_or_default().to_owned(),
        reason: format!("not a proxy address: {e}"),
    };
    // The client would otherwise look for a proxy in the environment, which is the caller's to read.
    let proxy = proxy.map(ureq::Proxy::new).transpose().map_err(failed)?;
    let config = Agent::config_builder()
        .proxy(proxy)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)));
    Ok(config.build().into())
}

fn download(agent: &Agent, url: &str, file: &RemoteFile, target: &Path) -> Result<(), DataError> {
    let failed = |reason: String| DataError::Download { url: url.to_owned(), reason };
    let mut response = agent.get(url).call().map_err(|e| failed(one_line(&e)))?;
    let mut body = response.body_mut().as_reader();
    let mut out = AtomicFile::create(target)?;
    let (mut hash, mut received) = (Hash::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = body
            .read(&mut buffer)
            .map_err(|e| failed(format!("after {received} bytes: {}", one_line(&e))))?;
        received += n as u64;
        if n == 0 || received > file.bytes {
            break;
        }
        hash.write_all(&buffer[..n])
            .and_then(|()| out.write_all(&buffer[..n]))
            .map_err(DataError::io(target, "write"))?;
    }
    if received != file.bytes {
        let found = if received > file.bytes { "more".to_owned() } else { received.to_string() };
        return Err(failed(format!("expected {} bytes, received {found}", file.bytes)));
    }
    let found = hash.hex();
    if found != file.sha256 {
        return Err(failed(format!("expected sha256 {}, received {found}", file.sha256)));
    }
    out.finish()
}

fn one_line(error: &impl ToString) -> String {
    error.to_string().replace('\n', " ")
}
