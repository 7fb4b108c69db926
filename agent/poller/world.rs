//! What a connected directory is: flavour, names, scope, groups, and what it can promise. Read when a session begins.
//! `plan` and `check` read by it too, so that they see the users that the agent sees.

use crate::config::{Config, Directory, Flavour, WriteBackNames};
use crate::decide::filter::Filter;
use crate::directory::connect::{self, ConnectError, Endpoint};
use crate::directory::entry::{GROUPS, MEMBER_OF, PRIMARY_GROUP, Shape, is_secret, members};
use crate::directory::flavour::{self, FlavourProfile};
use crate::directory::lookup::{self, LookupError};
use crate::directory::reversible::{self, Look};
use crate::directory::source::scan::Scan;
use crate::directory::source::syncrepl::{SearchShape, WIDEST_FILTER};
use crate::directory::source::{self, Batch, Change, Guarantees, Means, NoSource};
use crate::directory::stream::{Access, Scope, StreamError};
use crate::error::{Disposition, Hint};
use crate::intake::{Groups, Intake};
use crate::model::{Timestamp, is_below_or_equal, normalized_dn};
use crate::store::StoreError;
use ldap3::Ldap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// Entries in one page of a search, where the server has pages: from here on they cost nothing.
const PAGE: u32 = 1000;
/// For each step of connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a directory cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{url} is a directory of the kind {now} now ({seen}), and the store is of one of the kind {before}")]
    Flavour { url: String, now: Flavour, seen: String, before: Flavour },
    #[error("{url}: {problem}")]
    NoSource { url: String, problem: NoSource },
    #[error("{url} holds nothing at {base}")]
    NoContext { url: String, base: String },
    #[error("the filter {filter} cannot be used: {problem}")]
    Filter { filter: String, problem: String },
}

impl WorldError {
    pub fn disposition(&self) -> Disposition {
        match self {
            WorldError::Lookup(cause) => cause.disposition(),
            WorldError::Stream(cause) => cause.disposition(),
            WorldError::Flavour { .. }
            | WorldError::NoSource { .. }
            | WorldError::NoContext { .. }
            | WorldError::Filter { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            WorldError::Lookup(cause) => return cause.hint(),
            WorldError::Stream(cause) => return cause.hint(),
            WorldError::Flavour { .. } => {
                "correct [directory] url, or set [directory] flavour; for another directory take another [agent] state_dir; then: homeward check".into()
            }
            WorldError::NoSource { problem, .. } => return problem.hint(),
            WorldError::NoContext { .. } => "correct [directory] base, then: homeward check".into(),
            WorldError::Filter { .. } => "correct it, then: homeward check".into(),
        })
    }
}

/// What the groups that rules name hold now.
pub struct GroupsNow {
    /// As the source brings them too.
    followed: Vec<Change>,
    /// Outside the base, with normalized members: the source will not tell of them.
    outside: Vec<(String, BTreeSet<String>)>,
}

impl GroupsNow {
    pub fn store(self, intake: &mut Intake, now: Timestamp) -> Result<(), StoreError> {
        intake.take(Batch { changes: self.followed, refresh: true, ..Batch::default() }, now)?;
        for (group, members) in self.outside {
            intake.set_members(&group, &members, now)?;
        }
        Ok(())
    }
}

pub struct World {
    pub access: Access,
    pub search: SearchShape,
    /// Holds the base.
    pub naming_context: String,
    base_norm: String,
    pub groups: Groups,
    /// Groups that rules name, and watched ones, as written.
    named_groups: BTreeSet<String>,
    /// Attributes of which one is set where somebody was enabled before.
    pub carriers: Vec<String>,
    /// What the domain says of reversible storage, as read now; only where Digest rests on it.
    pub storage: Option<Look>,
    /// How changes are heard.
    pub means: Means,
    /// How one sees what server it is, and why that source.
    pub why: String,
    pub profile: FlavourProfile,
    /// As `Shape::primary_groups`.
    primary_groups: BTreeMap<String, String>,
    records: BTreeSet<String>,
    user_filter: Filter,
    lockout_matters: bool,
    sees_outside: bool,
    /// Our own entry, if it lies in the naming context and can be read: it must stay so.
    pub own_entry: Option<String>,
}

impl World {
    /// `profile`: of the flavour that the agent was started for.
    pub async fn read(
        config: &Config,
        profile: &FlavourProfile,
        endpoint: &Endpoint,
        ldap: &mut Ldap,
    ) -> Result<World, WorldError> {
        let directory = &config.directory;
        let root = flavour::root_dse(ldap).await?;
        let url = || endpoint.url.clone();
        let (flavour, seen) = flavour::settle(directory.flavour, &root);
        if flavour != profile.flavour {
            return Err(WorldError::Flavour { url: url(), now: flavour, seen, before: profile.flavour });
        }
        let (source, way) = source::choose(directory.source, flavour, &root)
            .map_err(|problem| WorldError::NoSource { url: url(), problem })?;
        let why = format!("{flavour}: {seen}; {source}: {way}");
        let base = directory.base.clone();
        let naming_context = root
            .naming_context_of(&base)
            .ok_or_else(|| WorldError::NoContext { url: url(), base: base.clone() })?
            .to_owned();
        let schema = flavour::schema(ldap, &root).await?;
        let sees_outside = lookup::sees_outside(ldap, &base, &naming_context).await?;
        let sees_deleted = flavour == Flavour::ActiveDirectory && lookup::sees_deleted(ldap, &naming_context).await?;
        let own_entry = lookup::own_entry(ldap, &directory.bind).await?.filter(|own| own.readable).map(|own| own.dn);
        let own_entry = own_entry.filter(|dn| is_below_or_equal(&normalized_dn(dn), &normalized_dn(&naming_context)));

        let names = config.im.write_back.names(&profile.write_back);
        let wanted = Wanted::of(config, profile, &names)?;
        let mut records = wanted.attributes;
        let mut groups = Groups { named: wanted.groups, ..Groups::default() };
        if records.contains(MEMBER_OF) {
            groups.server_has_member_of =
                schema.attribute(MEMBER_OF).is_some() && serves_member_of(ldap, &naming_context).await?;
            if !groups.server_has_member_of {
                records.remove(MEMBER_OF);
            }
        }
        let mut primary_groups = BTreeMap::new();
        if flavour == Flavour::ActiveDirectory && groups.server_has_member_of {
            for group in &wanted.named_groups {
                primary_groups
                    .extend(lookup::primary_group_token(ldap, group).await?.map(|token| (token, group.clone())));
            }
            records.extend((!primary_groups.is_empty()).then(|| PRIMARY_GROUP.to_owned()));
        }
        let storage = match config.digest.required && flavour == Flavour::ActiveDirectory {
            true => Some(reversible::look(ldap, &naming_context, reversible::rule(root.vendor_name.as_deref())).await?),
            false => None,
        };
        let mut named_groups = wanted.named_groups;
        for group in storage.iter().flat_map(|look| &look.groups) {
            groups.watched.insert(normalized_dn(group));
            named_groups.insert(group.clone());
        }
        let mut attributes: Vec<String> = records.iter().cloned().collect();
        if !groups.named.is_empty() || !groups.watched.is_empty() {
            // Only then: a group may have a hundred thousand members.
            attributes.extend(["member".into(), "uniquemember".into()]);
        }
        for name in storage.iter().flat_map(|look| reversible::attributes(look.rule)) {
            let name = name.to_ascii_lowercase();
            if !attributes.contains(&name) {
                attributes.push(name);
            }
        }
        let mut meaning = wanted.user_filter.to_string();
        for (group, nested) in &groups.named {
            let _ = write!(meaning, "\n{group} {nested}");
        }
        let carriers = [&names.home, &names.address].into_iter().filter(|name| !name.is_empty()).cloned().collect();
        let mut access = Access::new(directory, endpoint.clone(), profile.key);
        access.page = root.supports(flavour::PAGED_RESULTS_CONTROL).then_some(PAGE);
        Ok(World {
            access,
            search: SearchShape { base: base.clone(), filter: WIDEST_FILTER.into(), attributes, meaning },
            naming_context,
            base_norm: normalized_dn(&base),
            groups,
            named_groups,
            carriers,
            means: Means::new(source, directory.poll_interval, &root, sees_deleted),
            storage,
            why,
            profile: profile.clone(),
            primary_groups,
            records,
            user_filter: wanted.user_filter,
            lockout_matters: wanted.lockout_matters,
            sees_outside,
            own_entry,
        })
    }

    /// What entries are to intake.
    pub fn shape(&self) -> Shape {
        let filter = self.user_filter.clone();
        let records = self.records.iter().map(String::as_str);
        let shape = Shape::new(&self.search.base, records, Box::new(move |record| filter.matches(record)))
            .primary_groups(self.primary_groups.clone());
        match self.profile.lockout {
            Some((attribute, value)) if !self.lockout_matters => shape.only_value(attribute, value),
            _ => shape,
        }
    }

    /// Whether a DN, as the server writes it, lies at or below the base.
    pub fn contains(&self, dn: &str) -> bool {
        is_below_or_equal(&normalized_dn(dn), &self.base_norm)
    }

    /// To ask for, one by one.
    pub fn attributes(&self) -> Vec<&str> {
        self.search.attributes.iter().map(String::as_str).collect()
    }

    /// Those below the base are followed from then on; others are read again with each session and each sweep.
    pub async fn groups_now(&self, ldap: &mut Ldap) -> Result<GroupsNow, WorldError> {
        let attributes: Vec<String> = ["objectClass", "member", "uniqueMember"].map(String::from).to_vec();
        let (mut found, mut outside) = (Vec::new(), Vec::new());
        if self.groups.named.values().any(|nested| *nested) {
            let mut scan = Scan::start(&self.access, &self.naming_context, Scope::Subtree, GROUPS, &attributes).await?;
            while let Some(changes) = scan.next().await? {
                found.extend(changes);
            }
        } else {
            let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
            for group in &self.named_groups {
                match lookup::by_dn(ldap, self.access.key, group, &names).await? {
                    Some(entry) => found.push(Change::Entry(entry)),
                    None if self.contains(group) => {}
                    None => outside.push((group.clone(), BTreeSet::new())),
                }
            }
        }
        let (followed, elsewhere): (Vec<Change>, Vec<Change>) =
            found.into_iter().partition(|change| matches!(change, Change::Entry(entry) if self.contains(&entry.dn)));
        outside.extend(elsewhere.into_iter().filter_map(|change| match change {
            Change::Entry(entry) => Some((entry.dn.clone(), members(&entry))),
            Change::Present(_) | Change::Removed { .. } | Change::Deleted(_) | Change::Unreadable { .. } => None,
        }));
        Ok(GroupsNow { followed, outside })
    }

    pub fn guarantees(&self) -> Guarantees {
        self.means.guarantees(self.sees_outside)
    }
}

pub async fn connect(directory: &Directory, endpoint: &Endpoint) -> Result<Ldap, ConnectError> {
    connect::connect_ldap3(endpoint, directory, CONNECT_TIMEOUT).await
}

/// A server that knows the attribute need not keep it: somebody must have it.
async fn serves_member_of(ldap: &mut Ldap, naming_context: &str) -> Result<bool, LookupError> {
    match lookup::search(ldap, naming_context, ldap3::Scope::Subtree, "(memberOf=*)", &["1.1"], 1).await {
        Ok(found) => Ok(!found.is_empty()),
        Err(LookupError::TooMany { .. }) => Ok(true),
        Err(LookupError::NoSuchObject { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the configuration needs to know of a user.
struct Wanted {
    /// Lower case, no secrets.
    attributes: BTreeSet<String>,
    /// As `Groups::named`.
    groups: BTreeMap<String, bool>,
    named_groups: BTreeSet<String>,
    user_filter: Filter,
    /// Somebody other than the flavour's own filter reads the attribute that tells of lockouts.
    lockout_matters: bool,
}

impl Wanted {
    fn of(config: &Config, profile: &FlavourProfile, write_back: &WriteBackNames) -> Result<Wanted, WorldError> {
        let parse = |text: &str| {
            Filter::parse(text)
                .map_err(|error| WorldError::Filter { filter: text.to_owned(), problem: error.to_string() })
        };
        let own = &config.directory.attributes;
        let user_filter = parse(config.directory.filter.as_deref().unwrap_or(profile.user_filter))?;
        let mut filters = vec![(user_filter.clone(), false)];
        for rule in &config.policies {
            filters.push((parse(&rule.matches)?, rule.nested));
        }
        if let Some(disabled) = &own.disabled {
            filters.push((parse(disabled)?, false));
        }
        let mut attributes: BTreeSet<String> = [
            "objectClass",
            "proxyAddresses",
            own.login.as_deref().unwrap_or(profile.login),
            own.mail.as_deref().unwrap_or(profile.mail),
            &write_back.address,
            &write_back.url,
            &write_back.home_url,
            &write_back.home,
            profile.password_date,
            profile.password_reset.map_or("", |(attribute, _)| attribute),
            profile.created,
            profile.expires,
        ]
        .into_iter()
        .chain(own.extra.iter().map(String::as_str))
        .map(|name| name.split(';').next().unwrap_or_default().to_ascii_lowercase())
        .collect();
        let (mut groups, mut named_groups) = (BTreeMap::new(), BTreeSet::new());
        for (filter, nested) in &filters {
            attributes.extend(filter.attributes());
            for group in filter.named_groups() {
                *groups.entry(normalized_dn(&group)).or_insert(false) |= *nested || filter.reads_nested_membership();
                named_groups.insert(group);
            }
        }
        let lockout_matters = profile.lockout.is_some_and(|(attribute, _)| attributes.contains(attribute));
        if own.disabled.is_none() {
            attributes.extend(parse(profile.disabled)?.attributes());
        }
        attributes.retain(|name| !name.is_empty() && !is_secret(name));
        Ok(Wanted { attributes, groups, named_groups, user_filter, lockout_matters })
    }
}
