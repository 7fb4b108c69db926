//! Who may use the console: tokens, kept as hashes in a file of the state directory. A token is 256 random bits, so its
//! SHA-256 cannot be turned back, and needs no salt. Shown once, when it is made; never logged.

use crate::model::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const FILE: &str = "console-tokens.json";
/// More are not kept.
const TOKENS_MAX: usize = 1000;
/// What a token begins with: people and secret scanners know it by that.
const PREFIX: &str = "hwc_";
const NAME_CHARS_MAX: usize = 64;

/// What the bearer of a token may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything, change nothing
    Reader,
    /// See everything, and leave wishes
    Operator,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Operator => "operator",
        }
    }
}

/// A token as kept: never itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    pub name: String,
    pub role: Role,
    pub created_at: Timestamp,
    /// SHA-256 in hexadecimal.
    sha256: String,
}

impl Token {
    /// Names this very token, also where another one later bears its name.
    pub fn id(&self) -> &str {
        &self.sha256
    }
}

/// Why tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the tokens of the console in {} cannot be {doing}", path.display())]
    File {
        path: PathBuf,
        doing: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("a token called {0} exists already")]
    Exists(String),
    #[error("no token is called {0}")]
    Unknown(String),
    #[error("\"{0}\" cannot be the name of a token")]
    Name(String),
    #[error("there are {TOKENS_MAX} tokens already")]
    Full,
    #[error("the system gives no random numbers")]
    Random,
}

impl TokenError {
    pub fn hint(&self) -> String {
        match self {
            TokenError::File { path, .. } => format!("check owner and rights: ls -l {}", path.display()),
            TokenError::Exists(_) => "take another name, or: homeward console token remove NAME".into(),
            TokenError::Unknown(_) => "see: homeward console token list".into(),
            TokenError::Name(_) => format!("use 1 to {NAME_CHARS_MAX} letters, digits, and . _ @ -"),
            TokenError::Full => "remove some: homeward console token list".into(),
            TokenError::Random => "see the system's log".into(),
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// All tokens; none where there is no file.
pub fn read(state_dir: &Path) -> Result<Vec<Token>, TokenError> {
    let path = path(state_dir);
    let failed = |cause| TokenError::File { path: path.clone(), doing: "read", cause };
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Makes a token; what is returned is shown once and kept nowhere.
pub fn add(state_dir: &Path, name: &str, role: Role, now: Timestamp) -> Result<String, TokenError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
        return Err(TokenError::Name(name.to_owned()));
    }
    let mut tokens = read(state_dir)?;
    if tokens.iter().any(|token| token.name == name) {
        return Err(TokenError::Exists(name.to_owned()));
    }
    if tokens.len() >= TOKENS_MAX {
        return Err(TokenError::Full);
    }
    let secret = format!("{PREFIX}{}", hex(&random()?));
    tokens.push(Token { name: name.to_owned(), role, created_at: now, sha256: hex(&hash(&secret)) });
    write(state_dir, &tokens)?;
    Ok(secret)
}

pub fn remove(state_dir: &Path, name: &str) -> Result<(), TokenError> {
    let mut tokens = read(state_dir)?;
    let before = tokens.len();
    tokens.retain(|token| token.name != name);
    if tokens.len() == before {
        return Err(TokenError::Unknown(name.to_owned()));
    }
    write(state_dir, &tokens)
}

/// A whole new file beside the old one, then in its place: a reader sees one or the other.
fn write(state_dir: &Path, tokens: &[Token]) -> Result<(), TokenError> {
    let path = path(state_dir);
    let failed = |cause| TokenError::File { path: path.clone(), doing: "written", cause };
    let new = path.with_extension("new");
    let put = || -> std::io::Result<()> {
        std::fs::create_dir_all(state_dir)?;
        let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(tokens)?)?;
        file.sync_all()?;
        // Made by root for an agent that is not: it must be able to read it.
        let owner = std::fs::metadata(state_dir)?;
        use std::os::unix::fs::MetadataExt as _;
        let _ = std::os::unix::fs::chown(&new, Some(owner.uid()), Some(owner.gid()));
        std::fs::rename(&new, &path)
    };
    put().map_err(failed)
}

/// Whose token this is. Every token is compared, and each in the same time whatever it holds.
pub fn find<'t>(tokens: &'t [Token], secret: &str) -> Option<&'t Token> {
    let given = hex(&hash(secret));
    let mut found = None;
    for token in tokens {
        if same(token.sha256.as_bytes(), given.as_bytes()) {
            found = Some(token);
        }
    }
    found
}

/// Compares in a time that depends on the lengths alone.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

pub fn hash(secret: &str) -> [u8; 32] {
    sha2::Sha256::digest(secret.as_bytes()).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 256 bits that nobody can guess.
pub fn random() -> Result<[u8; 32], TokenError> {
    let mut bytes = [0; 32];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    #[test]
    fn a_token_is_known_by_its_hash_and_kept_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let secret = add(dir.path(), "olga", Role::Operator, NOW).unwrap();
        let other = add(dir.path(), "prometheus", Role::Reader, NOW).unwrap();
        let kept = std::fs::read_to_string(path(dir.path())).unwrap();
        assert!(!kept.contains(&secret[PREFIX.len()..]) && secret.len() == PREFIX.len() + 64);
        let tokens = read(dir.path()).unwrap();
        assert_eq!(
            find(&tokens, &secret).map(|token| (token.name.as_str(), token.role)),
            Some(("olga", Role::Operator))
        );
        assert_eq!(find(&tokens, &other).map(|token| token.role), Some(Role::Reader));
        for wrong in ["", "hwc_", &secret[1..], &secret.to_uppercase(), &format!("{secret} ")] {
            assert_eq!(find(&tokens, wrong), None, "{wrong}");
        }
        remove(dir.path(), "olga").unwrap();
        assert_eq!(find(&read(dir.path()).unwrap(), &secret), None);
        assert!(remove(dir.path(), "olga").is_err());
    }

    #[test]
    fn only_its_owner_can_read_the_file_and_names_are_plain() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), "olga", Role::Reader, NOW).unwrap();
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(add(dir.path(), "olga", Role::Reader, NOW), Err(TokenError::Exists(_))));
        for name in ["", "a b", "<b>", "zoë", &"x".repeat(65)] {
            assert!(matches!(add(dir.path(), name, Role::Reader, NOW), Err(TokenError::Name(_))), "{name}");
        }
    }
}
