//! Sample companies as LDIF, for tests, the demo and benchmarks: the same seed gives the same company. Pure `std`: it starts
//! nothing and writes nowhere but where it is told.
//!
//! Users live in `ou=DEPARTMENT,ou=REGION,ou=people`, groups in `ou=groups`. The containers `ou=people` and `ou=groups` are
//! the directory's; the regions and departments come with the LDIF.

use std::fmt;

pub const SUFFIX: &str = "dc=example,dc=com";
/// The e-mail domains, about half of the users each.
pub const MAIL_DOMAINS: [&str; 2] = ["example.com", "example.org"];
/// Every third user is in it.
pub const IM_GROUP: &str = "cn=im-users,ou=groups,dc=example,dc=com";

const REGIONS: &[&str] = &["amer", "emea", "apac", "nordics"];
const DEPARTMENTS: &[&str] = &["engineering", "sales", "finance", "support", "research", "operations"];
const TITLES: &[&str] = &["Analyst", "Engineer", "Manager", "Director", "Consultant", "Architect"];
const GIVEN: &[&str] = &[
    "Ada", "Alan", "Amir", "Ana", "Ben", "Carla", "Chen", "Claire", "Daniel", "Elif", "Emma", "Erik", "Fatima",
    "Grace", "Hugo", "Ines", "Ivan", "Julia", "Kei", "Lars", "Lena", "Maria", "Noah", "Olga", "Omar", "Petra", "Raj",
    "Sofia", "Wei",
];
const FAMILY: &[&str] = &[
    "Adler", "Ahmed", "Bauer", "Bell", "Carter", "Costa", "Dubois", "Evans", "Fischer", "Garcia", "Hansen", "Ito",
    "Jones", "Kaya", "Khan", "Kovacs", "Larsen", "Moreau", "Nagy", "Okoye", "Park", "Rossi", "Silva", "Smith",
    "Tanaka", "Weber",
];
const GIVEN_ELSEWHERE: &[&str] = &["Zoë", "José", "Łukasz", "Søren", "Αννα", "Юлия", "美咲"];
const FAMILY_ELSEWHERE: &[&str] = &["Müller", "Núñez", "Škoda", "Øster", "Παππάς", "Иванова", "山田"];
/// As much of a JPEG as slapd looks at.
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\xff\xd9";
const NON_ASCII_PERCENT: u64 = 3;

/// A company of so many users; every user is the same whatever the size of the company.
#[derive(Clone, Debug)]
pub struct Company {
    users: usize,
    seed: u64,
    broken: usize,
    password: Option<String>,
}

/// A way in which a user is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breakage {
    /// `msExchIMAddress` was written by somebody else, and `msExchIMPhysicalURL` names no home of ours.
    ForeignAddress,
    /// `imHomeServer` names a server nobody has.
    UnknownHome,
    /// A mail value without `@`.
    MailWithoutAt,
    /// A mail value with nothing before the `@`.
    MailWithoutLocalPart,
    /// A mail value with a space and a quote before the `@`: IA5 text, but no address to make a URL of.
    MailWithOddCharacters,
    /// The mail of the first sound user.
    MailOfAnother,
    /// A hundred mail values.
    ManyMails,
    /// A `jpegPhoto`, which is no text: seen where the configuration asks for that attribute (`extra`).
    NotUtf8,
    /// A `description` of 1 MB.
    HugeDescription,
    /// No mail at all.
    NoMail,
}

/// What is to become of a broken user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    Enabled,
    Problem,
}

impl Breakage {
    pub const ALL: [Breakage; 10] = [
        Breakage::ForeignAddress,
        Breakage::UnknownHome,
        Breakage::MailWithoutAt,
        Breakage::MailWithoutLocalPart,
        Breakage::MailWithOddCharacters,
        Breakage::MailOfAnother,
        Breakage::ManyMails,
        Breakage::NotUtf8,
        Breakage::HugeDescription,
        Breakage::NoMail,
    ];

    /// Where both e-mail domains have an SRV record, so that the address is the mail, and `[im] domain` is set.
    pub fn expected(self) -> Expected {
        match self {
            Breakage::ForeignAddress
            | Breakage::UnknownHome
            | Breakage::MailWithoutAt
            | Breakage::MailWithoutLocalPart
            | Breakage::MailWithOddCharacters
            // Only one can have it.
            | Breakage::MailOfAnother => Expected::Problem,
            // The first is taken, and kept once given.
            Breakage::ManyMails
            | Breakage::NotUtf8 | Breakage::HugeDescription | Breakage::NoMail => Expected::Enabled,
        }
    }
}

impl Company {
    pub fn new(users: usize) -> Company {
        Company { users, seed: 1, broken: 0, password: None }
    }

    pub fn seed(mut self, seed: u64) -> Company {
        self.seed = seed;
        self
    }

    /// So many users are broken, one way after another, spread over the company.
    pub fn broken(mut self, users: usize) -> Company {
        self.broken = users.min(self.users.saturating_sub(1));
        self
    }

    /// Everybody has this `userPassword`; without, nobody has one.
    pub fn password(mut self, password: &str) -> Company {
        self.password = Some(password.to_owned());
        self
    }

    /// The DNs of all users, in the order of the LDIF.
    pub fn user_dns(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.users).map(|n| self.user_dn(n))
    }

    /// Each broken user, how, and what is expected.
    pub fn broken_users(&self) -> impl Iterator<Item = (String, Breakage, Expected)> + '_ {
        (0..self.users).filter_map(|n| self.breakage(n).map(|how| (self.user_dn(n), how, how.expected())))
    }

    pub fn ldif(&self) -> String {
        let mut out = String::with_capacity(self.users * 640);
        self.write(&mut out).expect("a string takes everything");
        out
    }

    /// Containers, users, groups. The text is ASCII: what is not is in base64.
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        for region in REGIONS {
            let above = format!("ou={region},ou=people,{SUFFIX}");
            write!(out, "dn: {above}\nobjectClass: organizationalUnit\nou: {region}\n\n")?;
            for department in DEPARTMENTS {
                write!(out, "dn: ou={department},{above}\nobjectClass: organizationalUnit\nou: {department}\n\n")?;
            }
        }
        for n in 0..self.users {
            self.write_user(out, n)?;
        }
        self.write_group(out, IM_GROUP, |n| n.is_multiple_of(3))?;
        for department in DEPARTMENTS {
            let dn = format!("cn={department},ou=groups,{SUFFIX}");
            self.write_group(out, &dn, |n| self.place(n).1 == *department)?;
        }
        Ok(())
    }

    fn write_group(&self, out: &mut impl fmt::Write, dn: &str, holds: impl Fn(usize) -> bool) -> fmt::Result {
        let mut members = (0..self.users).filter(|n| holds(*n)).peekable();
        // groupOfNames without a member is against its schema.
        if members.peek().is_none() {
            return Ok(());
        }
        let name = dn.split(['=', ',']).nth(1).unwrap_or_default();
        write!(out, "dn: {dn}\nobjectClass: groupOfNames\ncn: {name}\n")?;
        members.try_for_each(|n| writeln!(out, "member: {}", self.user_dn(n)))?;
        out.write_char('\n')
    }

    fn write_user(&self, out: &mut impl fmt::Write, n: usize) -> fmt::Result {
        let mut dice = self.dice(n);
        let (region, department) = place(&mut dice);
        let elsewhere = dice.below(100) < NON_ASCII_PERCENT;
        let given = *dice.pick(if elsewhere { GIVEN_ELSEWHERE } else { GIVEN });
        let family = *dice.pick(if elsewhere { FAMILY_ELSEWHERE } else { FAMILY });
        let employed = match dice.below(100) {
            0..80 => "staff",
            80..92 => "contractor",
            92..97 => "intern",
            _ => "service",
        };
        let uid = uid(n);
        let breakage = self.breakage(n);
        write!(out, "dn: {}\nobjectClass: inetOrgPerson\n", self.user_dn(n))?;
        match breakage {
            Some(Breakage::ForeignAddress) => out.write_str(
                "objectClass: homewardIMUser\nmsExchIMAddress: somebody@elsewhere.example.net\n\
                 msExchIMPhysicalURL: http://elsewhere.example.net/instmsg/aliases/somebody\n",
            )?,
            Some(Breakage::UnknownHome) => {
                writeln!(out, "objectClass: homewardIMUser\nimHomeServer: im-nobody-has")?;
            }
            _ => {}
        }
        writeln!(out, "uid: {uid}")?;
        for (name, value) in
            [("cn", format!("{given} {family} {n}")), ("givenName", given.into()), ("sn", family.into())]
        {
            out.write_str(&ldif_line(name, value.as_bytes()))?;
        }
        out.write_str(&ldif_line("displayName", format!("{given} {family}").as_bytes()))?;
        write!(
            out,
            "employeeNumber: {}\nemployeeType: {employed}\nou: {department}\nl: {region}\ntitle: {}\n\
             telephoneNumber: +1 555 {:07}\n",
            100_000 + n,
            dice.pick(TITLES),
            dice.below(10_000_000),
        )?;
        let sound = self.mail(n);
        match breakage {
            Some(Breakage::NoMail) => {}
            Some(Breakage::MailWithoutAt) => writeln!(out, "mail: {uid}.example.com")?,
            Some(Breakage::MailWithoutLocalPart) => writeln!(out, "mail: @example.com")?,
            Some(Breakage::MailWithOddCharacters) => writeln!(out, "mail: {uid} \"the one\"@example.com")?,
            Some(Breakage::MailOfAnother) => writeln!(out, "mail: {}", self.mail(0))?,
            Some(Breakage::ManyMails) => {
                (0..100).try_for_each(|more| writeln!(out, "mail: {uid}.{more}@example.com"))?;
            }
            Some(Breakage::ForeignAddress | Breakage::UnknownHome | Breakage::NotUtf8 | Breakage::HugeDescription)
            | None => writeln!(out, "mail: {sound}")?,
        }
        writeln!(out, "departmentNumber: {:03}", dice.below(60))?;
        if breakage == Some(Breakage::NotUtf8) {
            out.write_str(&ldif_line("jpegPhoto", PHOTO))?;
        }
        if breakage == Some(Breakage::HugeDescription) {
            writeln!(out, "description: {}", "x".repeat(1_000_000))?;
        }
        if let Some(password) = &self.password {
            out.write_str(&ldif_line("userPassword", password.as_bytes()))?;
        }
        out.write_char('\n')
    }

    /// How user `n` is broken. The first user is always sound.
    pub fn breakage(&self, n: usize) -> Option<Breakage> {
        if self.broken == 0 || n == 0 {
            return None;
        }
        // Evenly spread: the k-th broken user is the first at or after its share of the company.
        let before = (n - 1) * self.broken / (self.users - 1);
        let after = n * self.broken / (self.users - 1);
        (after > before).then(|| Breakage::ALL[before % Breakage::ALL.len()])
    }

    pub fn user_dn(&self, n: usize) -> String {
        let (region, department) = self.place(n);
        format!("uid={},ou={department},ou={region},ou=people,{SUFFIX}", uid(n))
    }

    /// The mail address that user `n` has, unless that is what is broken.
    pub fn mail(&self, n: usize) -> String {
        format!("{}@{}", uid(n), MAIL_DOMAINS[n % MAIL_DOMAINS.len()])
    }

    fn place(&self, n: usize) -> (&'static str, &'static str) {
        place(&mut self.dice(n))
    }

    fn dice(&self, n: usize) -> Dice {
        Dice::new(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(n as u64))
    }
}

/// The login name of user `n`: `u0000042`.
pub fn uid(n: usize) -> String {
    format!("u{n:07}")
}

fn place(dice: &mut Dice) -> (&'static str, &'static str) {
    (*dice.pick(REGIONS), *dice.pick(DEPARTMENTS))
}

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number from 0 to just below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    /// One of the items, of which there must be one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// One LDIF line (RFC 2849), in base64 where it has to be.
pub fn ldif_line(name: &str, value: &[u8]) -> String {
    let safe = value.iter().all(|byte| (0x20..0x7f).contains(byte))
        && !matches!(value.first(), Some(b' ' | b':' | b'<'))
        && value.last() != Some(&b' ');
    match std::str::from_utf8(value) {
        Ok(text) if safe => format!("{name}: {text}\n"),
        _ => format!("{name}:: {}\n", base64(value)),
    }
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(octets.len().div_ceil(3) * 4);
    for chunk in octets.chunks(3) {
        let group = chunk.iter().enumerate().fold(0u32, |group, (n, byte)| group | (u32::from(*byte) << (16 - 8 * n)));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            out.push(if shown { DIGITS[(group >> (18 - 6 * digit)) as usize & 63] as char } else { '=' });
        }
    }
    out
}
