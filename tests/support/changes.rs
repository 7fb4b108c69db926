//! Changes made as the rootdn over one connection: with a tool for each, thousands would take longer than what they test.
//! The connection is made again where the server was killed, and a change without an answer is made once more, so that
//! in the end each was made.

use super::slapd::{ADMIN_DN, ADMIN_PASSWORD, SUFFIX, Slapd};
use ldap3::{Ldap, LdapConnAsync, LdapError, LdapResult, Mod};
use std::collections::HashSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const ATTRIBUTE_GONE: u32 = 16;
const VALUE_EXISTS: u32 = 20;
const NO_ENTRY: u32 = 32;
const ENTRY_EXISTS: u32 = 68;

pub struct Changes {
    runtime: tokio::runtime::Runtime,
    url: String,
    ldap: Option<Ldap>,
}

impl Changes {
    pub fn of(slapd: &Slapd) -> Changes {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Changes { runtime, url: slapd.url(), ldap: None }
    }

    /// As `slapd::person`.
    pub fn add(&mut self, login: &str) {
        let mail = format!("{login}@example.com");
        let values =
            [("objectClass", "inetOrgPerson"), ("uid", login), ("cn", login), ("sn", login), ("mail", mail.as_str())];
        self.make(&dn(login), ENTRY_EXISTS, |mut ldap, dn| async move {
            ldap.add(&dn, values.into_iter().map(|(name, value)| (name, HashSet::from([value]))).collect()).await
        });
    }

    pub fn delete(&mut self, login: &str) {
        self.make(&dn(login), NO_ENTRY, |mut ldap, dn| async move { ldap.delete(&dn).await });
    }

    pub fn replace(&mut self, login: &str, name: &str, value: &str) {
        self.make(&dn(login), 0, |mut ldap, dn| async move {
            ldap.modify(&dn, vec![Mod::Replace(name, HashSet::from([value]))]).await
        });
    }

    /// Locked by an administrator, for good; or not.
    pub fn lock(&mut self, login: &str, locked: bool) {
        const LOCK: &str = "pwdAccountLockedTime";
        let (done, change) = match locked {
            true => (VALUE_EXISTS, Mod::Add(LOCK, HashSet::from(["000001010000Z"]))),
            false => (ATTRIBUTE_GONE, Mod::Delete(LOCK, HashSet::new())),
        };
        self.make(&dn(login), done, |mut ldap, dn| {
            let change = change.clone();
            async move { ldap.modify(&dn, vec![change]).await }
        });
    }

    /// `done`: what the server says if the change was made before, and only its answer lost.
    fn make<F>(&mut self, dn: &str, done: u32, change: impl Fn(Ldap, String) -> F)
    where
        F: Future<Output = Result<LdapResult, LdapError>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut again = false;
        loop {
            let outcome = self.runtime.block_on(async {
                if self.ldap.is_none() {
                    let (connection, mut ldap) = LdapConnAsync::new(&self.url).await?;
                    ldap3::drive!(connection);
                    ldap.simple_bind(ADMIN_DN, ADMIN_PASSWORD).await?.success()?;
                    self.ldap = Some(ldap);
                }
                let ldap = self.ldap.clone().expect("just made");
                tokio::time::timeout(PATIENCE, change(ldap, dn.to_owned())).await.expect("slapd answers")
            });
            match outcome {
                Ok(result) if result.rc == 0 || again && result.rc == done => return,
                // The server is on its way down or up.
                Ok(result) if matches!(result.rc, 51 | 52 | 80) => {}
                Ok(result) => panic!("{dn}: {result}"),
                Err(_) => (self.ldap, again) = (None, true),
            }
            assert!(Instant::now() < deadline, "no change can be made to {dn}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn dn(login: &str) -> String {
    format!("uid={login},ou=people,{SUFFIX}")
}
