//! What kind of server this is, what it can do, and the names that such servers use. Read once, after connecting.
//! Nothing here is about a user.

use super::key::KeyAttribute;
use super::lookup::{Found, LookupError, search};
use crate::config::{Flavour, WriteBackNames};
use crate::decide::policy::Charset;
use ldap3::{Ldap, Scope};
use std::collections::BTreeMap;

/// RFC 4528: a write that happens only if a filter holds.
pub const ASSERTION_CONTROL: &str = "1.3.6.1.1.12";
/// RFC 4533: content synchronization.
pub const SYNC_CONTROL: &str = "1.3.6.1.4.1.4203.1.9.1.1";
/// draft-ietf-ldapext-psearch-03.
pub const PERSISTENT_SEARCH_CONTROL: &str = "2.16.840.1.113730.3.4.3";
/// RFC 2696.
pub const PAGED_RESULTS_CONTROL: &str = "1.2.840.113556.1.4.319";
/// Active Directory says this of itself in `supportedCapabilities` (MS-ADTS 3.1.1.3.4.3.1).
const ACTIVE_DIRECTORY_CAPABILITY: &str = "1.2.840.113556.1.4.800";
/// The arc of FreeIPA's own extended operations.
const FREEIPA_EXTENSIONS: &str = "2.16.840.1.113730.3.8.10.";

const ROOT_DSE_ATTRIBUTES: &[&str] = &[
    "objectClass",
    "namingContexts",
    "supportedControl",
    "supportedExtension",
    "supportedCapabilities",
    "supportedSASLMechanisms",
    "vendorName",
    "vendorVersion",
    "configContext",
    "configurationNamingContext",
    "domainFunctionality",
    "forestFunctionality",
    "subschemaSubentry",
    "firstChangeNumber",
];

/// What the server says of itself (RFC 4512 5.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RootDse {
    pub object_classes: Vec<String>,
    pub naming_contexts: Vec<String>,
    pub supported_controls: Vec<String>,
    pub supported_extensions: Vec<String>,
    pub supported_capabilities: Vec<String>,
    pub sasl_mechanisms: Vec<String>,
    pub vendor_name: Option<String>,
    pub vendor_version: Option<String>,
    /// OpenLDAP: where its configuration is, `cn=config`.
    pub config_context: Option<String>,
    /// Active Directory: the partition with the forest's services, `CN=Configuration,DC=…`.
    pub configuration: Option<String>,
    /// Active Directory: msDS-Behavior-Version of domain and forest (MS-ADTS 6.1.4.4): 7 is Windows Server 2016.
    pub domain_level: Option<u32>,
    pub forest_level: Option<u32>,
    pub subschema: Option<String>,
    /// 389 DS: the oldest change that its retro changelog still has.
    pub first_change: Option<u64>,
}

impl RootDse {
    pub fn supports(&self, control: &str) -> bool {
        self.supported_controls.iter().any(|oid| oid == control)
    }

    /// The naming context that holds `base`: the longest, where they are nested.
    pub fn naming_context_of(&self, base: &str) -> Option<&str> {
        use crate::model::{is_below_or_equal, normalized_dn};
        let base = normalized_dn(base);
        let holds = |context: &&String| is_below_or_equal(&base, &normalized_dn(context));
        self.naming_contexts.iter().filter(holds).max_by_key(|context| context.len()).map(String::as_str)
    }

    fn from_found(found: &Found) -> RootDse {
        let all = |name| found.texts(name).map(str::to_owned).collect();
        let one = |name| found.text(name).map(str::to_owned);
        RootDse {
            object_classes: all("objectclass"),
            naming_contexts: all("namingcontexts"),
            supported_controls: all("supportedcontrol"),
            supported_extensions: all("supportedextension"),
            supported_capabilities: all("supportedcapabilities"),
            sasl_mechanisms: all("supportedsaslmechanisms"),
            vendor_name: one("vendorname"),
            vendor_version: one("vendorversion"),
            config_context: one("configcontext"),
            configuration: one("configurationnamingcontext"),
            domain_level: one("domainfunctionality").and_then(|level| level.parse().ok()),
            forest_level: one("forestfunctionality").and_then(|level| level.parse().ok()),
            subschema: one("subschemasubentry"),
            first_change: one("firstchangenumber").and_then(|number| number.parse().ok()),
        }
    }
}

/// Reads the root DSE.
pub async fn root_dse(ldap: &mut Ldap) -> Result<RootDse, LookupError> {
    let found = search(ldap, "", Scope::Base, "(objectClass=*)", ROOT_DSE_ATTRIBUTES, 0).await?;
    let unreadable = || LookupError::NoSuchObject { dn: "the root DSE".into() };
    found.first().map(RootDse::from_found).ok_or_else(unreadable)
}

/// Which flavour it is, and by what one sees that.
pub fn detect(root: &RootDse) -> (Flavour, String) {
    let vendor = root.vendor_name.as_deref().unwrap_or_default();
    let freeipa = || root.supported_extensions.iter().find(|oid| oid.starts_with(FREEIPA_EXTENSIONS));
    if root.supported_capabilities.iter().any(|oid| oid == ACTIVE_DIRECTORY_CAPABILITY) {
        (Flavour::ActiveDirectory, format!("its capabilities name {ACTIVE_DIRECTORY_CAPABILITY}"))
    } else if let Some(oid) = freeipa() {
        (Flavour::FreeIpa, format!("it has FreeIPA's extended operation {oid}"))
    } else if vendor.contains("389") {
        (Flavour::Ds389, format!("its vendor name is \"{vendor}\""))
    } else if root.object_classes.iter().any(|class| class.eq_ignore_ascii_case("OpenLDAProotDSE")) {
        (Flavour::OpenLdap, "its root DSE has the class OpenLDAProotDSE".into())
    } else if vendor.is_empty() {
        (Flavour::Generic, "nothing in its root DSE names a known server".into())
    } else {
        (Flavour::Generic, format!("its vendor name is \"{vendor}\""))
    }
}

/// Which flavour it is: as configured, else by what the root DSE says; and how one knows.
pub fn settle(configured: Option<Flavour>, root: &RootDse) -> (Flavour, String) {
    match configured {
        Some(flavour) => (flavour, "the configuration says so".into()),
        None => detect(root),
    }
}

/// The names and filters that servers of a flavour use, as far as the configuration does not say otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlavourProfile {
    pub flavour: Flavour,
    /// RFC 4515: users only.
    pub user_filter: &'static str,
    pub login: &'static str,
    pub mail: &'static str,
    /// RFC 4515: what a disabled account matches. A lockout after wrong passwords is none.
    pub disabled: &'static str,
    /// An attribute, in lower case, that `disabled` reads, and its only value that is no lockout.
    pub lockout: Option<(&'static str, &'static str)>,
    pub key: KeyAttribute,
    pub write_back: WriteBackNames,
    /// Characters that the syntax of the address takes.
    pub charset: Charset,
    /// When the password was set last; users loaded in bulk have none.
    pub password_date: &'static str,
    /// The attribute and value that demand a new password at the next bind. `None`: not known for such servers.
    pub password_reset: Option<(&'static str, &'static str)>,
    /// When the entry was created, on servers that date every change of a password: an older entry without a date has an
    /// older password. Empty: no date says nothing.
    pub created: &'static str,
    /// When the account expires; empty: no such attribute.
    pub expires: &'static str,
}

/// The profile of a flavour.
pub fn profile(flavour: Flavour) -> FlavourProfile {
    // The schema that we ship for these; its syntax takes ASCII.
    let openldap = FlavourProfile {
        flavour,
        user_filter: "(objectClass=inetOrgPerson)",
        login: "uid",
        mail: "mail",
        // slapo-ppolicy(5): this time means locked by an administrator, for good.
        disabled: "(pwdAccountLockedTime=000001010000Z)",
        lockout: Some(("pwdaccountlockedtime", "000001010000Z")),
        key: KeyAttribute::EntryUuid,
        write_back: WriteBackNames {
            address: "msExchIMAddress".into(),
            url: "msExchIMMetaPhysicalURL".into(),
            home_url: "msExchIMPhysicalURL".into(),
            home: "imHomeServer".into(),
            object_class: "homewardIMUser".into(),
        },
        charset: Charset::Ia5,
        password_date: "pwdChangedTime",
        password_reset: Some(("pwdReset", "TRUE")),
        created: "createTimestamp",
        expires: "",
    };
    match flavour {
        Flavour::OpenLdap => openldap,
        // ns-slapd's own `dsidm user create` makes nsPerson without inetOrgPerson. 1970: expired (RFC draft-vchu-ldap-pwd-policy).
        Flavour::Ds389 => FlavourProfile {
            user_filter: "(|(objectClass=inetOrgPerson)(objectClass=nsPerson))",
            disabled: "(nsAccountLock=TRUE)",
            lockout: None,
            key: KeyAttribute::NsUniqueId,
            password_date: "pwdUpdateTime",
            password_reset: Some(("passwordExpirationTime", "19700101000000Z")),
            created: "",
            ..openldap
        },
        // In the past, and not 1970: the KDC takes a time of zero for "never" (MIT krb5, kdc_util.c: pw_expiration).
        Flavour::FreeIpa => FlavourProfile {
            disabled: "(nsAccountLock=TRUE)",
            lockout: None,
            key: KeyAttribute::NsUniqueId,
            password_date: "krbLastPwdChange",
            password_reset: Some(("krbPasswordExpiration", "20000101000000Z")),
            created: "",
            ..openldap
        },
        Flavour::Generic => FlavourProfile { password_reset: None, created: "", ..openldap },
        // userAccountControl: 2 is disabled, 2048 the account of a trusted domain (MS-ADTS 2.2.16). pwdLastSet 0: must
        // change at the next logon (MS-ADTS 2.313 of MS-ADA3). The four attributes come with msExchIMRecipient, which
        // the schema puts on every user.
        Flavour::ActiveDirectory => FlavourProfile {
            user_filter: "(&(objectClass=user)(!(objectClass=computer))(!(isCriticalSystemObject=TRUE))(!(userAccountControl:1.2.840.113556.1.4.803:=2048)))",
            login: "sAMAccountName",
            disabled: "(userAccountControl:1.2.840.113556.1.4.803:=2)",
            lockout: None,
            key: KeyAttribute::ObjectGuid,
            write_back: WriteBackNames {
                home: "msExchIMVirtualServer".into(),
                object_class: String::new(),
                ..openldap.write_back
            },
            charset: Charset::Printable,
            password_date: "pwdLastSet",
            password_reset: Some(("pwdLastSet", "0")),
            created: "whenCreated",
            expires: "accountExpires",
            ..openldap
        },
    }
}

/// An attribute type as the server defines it (RFC 4512 4.1.2). What it inherits from SUP is filled in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AttributeType {
    pub names: Vec<String>,
    pub sup: Option<String>,
    pub equality: Option<String>,
    pub ordering: Option<String>,
    /// The OID, without a length.
    pub syntax: Option<String>,
    pub single_value: bool,
}

/// What the server's schema defines. Definitions that cannot be read are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schema {
    /// By name and OID, in lower case.
    attributes: BTreeMap<String, AttributeType>,
    /// Names and OIDs of object classes, in lower case.
    classes: BTreeMap<String, Vec<String>>,
}

impl Schema {
    /// The attribute type of this name or OID, options and case ignored.
    pub fn attribute(&self, name: &str) -> Option<AttributeType> {
        const SUP_MAX: usize = 16;
        let by_name = |name: &str| {
            let base = name.split(';').next().unwrap_or_default();
            self.attributes.get(&base.to_ascii_lowercase())
        };
        let mut found = by_name(name)?.clone();
        let mut sup = found.sup.clone();
        for _ in 0..SUP_MAX {
            let Some(parent) = sup.as_deref().and_then(by_name) else { break };
            found.equality = found.equality.or_else(|| parent.equality.clone());
            found.ordering = found.ordering.or_else(|| parent.ordering.clone());
            found.syntax = found.syntax.or_else(|| parent.syntax.clone());
            sup = parent.sup.clone();
        }
        Some(found)
    }

    pub fn has_class(&self, name: &str) -> bool {
        self.classes.contains_key(&name.to_ascii_lowercase())
    }

    /// Those of the write-back attributes, and the class, that the server does not know.
    pub fn missing<'a>(&self, names: &'a WriteBackNames) -> Vec<&'a str> {
        let attributes = [&names.address, &names.url, &names.home_url, &names.home];
        let mut missing: Vec<&str> = attributes
            .into_iter()
            .filter(|name| !name.is_empty() && self.attribute(name).is_none())
            .map(String::as_str)
            .collect();
        if !names.object_class.is_empty() && !self.has_class(&names.object_class) {
            missing.push(&names.object_class);
        }
        missing
    }

    /// From the values of `attributeTypes` and `objectClasses`.
    pub fn parse<'a>(
        attribute_types: impl IntoIterator<Item = &'a str>,
        object_classes: impl IntoIterator<Item = &'a str>,
    ) -> Schema {
        let mut schema = Schema::default();
        for definition in attribute_types {
            let Some((oid, fields)) = definition_fields(definition) else { continue };
            let one = |name: &str| fields.get(name).and_then(|values| values.first()).cloned();
            let names = fields.get("NAME").cloned().unwrap_or_default();
            let attribute = AttributeType {
                sup: one("SUP"),
                equality: one("EQUALITY"),
                ordering: one("ORDERING"),
                syntax: one("SYNTAX").map(|oid| oid.split('{').next().unwrap_or_default().to_owned()),
                single_value: fields.contains_key("SINGLE-VALUE"),
                names,
            };
            for name in attribute.names.iter().chain([&oid]) {
                schema.attributes.insert(name.to_ascii_lowercase(), attribute.clone());
            }
        }
        for definition in object_classes {
            let Some((oid, fields)) = definition_fields(definition) else { continue };
            let names = fields.get("NAME").cloned().unwrap_or_default();
            for name in names.iter().chain([&oid]) {
                schema.classes.insert(name.to_ascii_lowercase(), names.clone());
            }
        }
        schema
    }
}

/// Reads the subschema that the root DSE names.
pub async fn schema(ldap: &mut Ldap, root: &RootDse) -> Result<Schema, LookupError> {
    let dn = root.subschema.as_deref().unwrap_or("cn=Subschema");
    let attributes = ["attributeTypes", "objectClasses"];
    let found = search(ldap, dn, Scope::Base, "(objectClass=subschema)", &attributes, 0).await?;
    let entry = found.first().ok_or_else(|| LookupError::NoSuchObject { dn: dn.to_owned() })?;
    Ok(Schema::parse(entry.texts("attributetypes"), entry.texts("objectclasses")))
}

/// `( OID KEYWORD value KEYWORD ( value $ value ) … )`: the OID, and the values by keyword.
fn definition_fields(definition: &str) -> Option<(String, BTreeMap<String, Vec<String>>)> {
    let mut tokens = tokens(definition)?.into_iter().peekable();
    if tokens.next()? != Token::Open {
        return None;
    }
    let Token::Word(oid) = tokens.next()? else { return None };
    let mut fields = BTreeMap::new();
    loop {
        let keyword = match tokens.next()? {
            Token::Close => return Some((oid, fields)),
            Token::Word(keyword) => keyword,
            Token::Open | Token::Quoted(_) => return None,
        };
        let mut values = Vec::new();
        let flag = matches!(
            keyword.as_str(),
            "OBSOLETE"
                | "SINGLE-VALUE"
                | "COLLECTIVE"
                | "NO-USER-MODIFICATION"
                | "ABSTRACT"
                | "STRUCTURAL"
                | "AUXILIARY"
        );
        if !flag {
            match tokens.next()? {
                Token::Word(value) | Token::Quoted(value) => values.push(value),
                Token::Close => return None,
                Token::Open => loop {
                    match tokens.next()? {
                        Token::Word(value) | Token::Quoted(value) => values.push(value),
                        Token::Close => break,
                        Token::Open => return None,
                    }
                },
            }
        }
        fields.insert(keyword, values);
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Token {
    Open,
    Close,
    Word(String),
    Quoted(String),
}

/// `None`: a quote is not closed.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '(' => {
                tokens.push(Token::Open);
                rest.strip_prefix('(')?
            }
            ')' => {
                tokens.push(Token::Close);
                rest.strip_prefix(')')?
            }
            '$' => rest.strip_prefix('$')?,
            '\'' => {
                let (quoted, after) = rest.strip_prefix('\'')?.split_once('\'')?;
                tokens.push(Token::Quoted(quoted.to_owned()));
                after
            }
            _ => {
                let end =
                    rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '$' | '\'')).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                tokens.push(Token::Word(word.to_owned()));
                after
            }
        }
        .trim_start();
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn definitions_are_read_with_what_they_inherit() {
        let schema = Schema::parse(
            [
                "( 2.5.4.41 NAME 'name' DESC 'it\\27s' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15{32768} )",
                "( 2.5.4.3 NAME ( 'cn' 'commonName' ) DESC 'a (b) $ c' SUP name )",
                "(1.2.3 NAME 'one' SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE X-ORDERED 'VALUES')",
                "( 1.2.4 NAME 'broken",
                "nonsense",
            ],
            ["( 2.5.6.2 NAME 'country' SUP top STRUCTURAL MUST c MAY ( searchGuide $ description ) )"],
        );
        let cn = schema.attribute("COMMONNAME;lang-de").unwrap();
        assert_eq!(cn.equality.as_deref(), Some("caseIgnoreMatch"));
        assert_eq!(cn.syntax.as_deref(), Some("1.3.6.1.4.1.1466.115.121.1.15"));
        assert!(!cn.single_value && schema.attribute("1.2.3").unwrap().single_value);
        assert_eq!(schema.attribute("broken"), None);
        assert!(schema.has_class("Country") && !schema.has_class("city"));
    }

    #[test]
    fn a_circle_of_sup_ends() {
        let schema = Schema::parse(["( 1 NAME 'a' SUP b )", "( 2 NAME 'b' SUP a )"], []);
        assert_eq!(schema.attribute("a").unwrap().syntax, None);
    }

    #[test]
    fn each_known_server_is_told_by_its_root_dse() {
        let root = |change: fn(&mut RootDse)| {
            let mut root = RootDse::default();
            change(&mut root);
            detect(&root).0
        };
        assert_eq!(root(|_| ()), Flavour::Generic);
        assert_eq!(root(|root| root.object_classes.push("OpenLDAProotDSE".into())), Flavour::OpenLdap);
        assert_eq!(root(|root| root.vendor_name = Some("389 Project".into())), Flavour::Ds389);
        let capability = |root: &mut RootDse| root.supported_capabilities.push(ACTIVE_DIRECTORY_CAPABILITY.into());
        assert_eq!(root(capability), Flavour::ActiveDirectory);
        let freeipa = |root: &mut RootDse| {
            root.vendor_name = Some("389 Project".into());
            root.supported_extensions.push("2.16.840.1.113730.3.8.10.5".into());
        };
        assert_eq!(root(freeipa), Flavour::FreeIpa);
    }

    #[test]
    fn the_naming_context_of_a_base_is_the_longest_that_holds_it() {
        let root = RootDse {
            naming_contexts: vec!["dc=com".into(), "DC=Example, dc=com".into(), "cn=log".into()],
            ..RootDse::default()
        };
        assert_eq!(root.naming_context_of("ou=a,dc=example,dc=com"), Some("DC=Example, dc=com"));
        assert_eq!(root.naming_context_of("dc=org"), None);
    }

    proptest! {
        #[test]
        fn no_definition_makes_it_panic(text in "[ ()'$a-zA-Z.0-9{}ä]{0,80}") {
            let _ = Schema::parse([text.as_str()], [text.as_str()]);
        }
    }
}
