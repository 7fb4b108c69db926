#!/usr/bin/python3
"""Gives the agent's account what it needs on a Samba domain, and nothing else. Run it on a domain controller as root:

    grant.py [--digest] [--expire] SMB_CONF SAM_LDB ACCOUNT CONTAINER_DN...

SMB_CONF is often /etc/samba/smb.conf, SAM_LDB /var/lib/samba/private/sam.ldb, ACCOUNT the sAMAccountName of an ordinary
user, and each CONTAINER_DN holds users to be enabled (the domain itself, or some OUs). Each entry is put in front of the
object's access list, once; running it again changes nothing. Entries and why, in SDDL with SID for the account:

  CN=Deleted Objects  (A;CI;RPLC;;;SID)                      deletions are heard at once rather than by the next sweep
  each container      (OA;CIIO;RPWP;<attribute>;<class>;SID) the four attributes that are written, each by its own GUID
  each container      (OA;CIIO;RP;<restrictions>;<class>;SID) userAccountControl, accountExpires and pwdLastSet are read
  with --digest, for [digest] required:
  CN=Password Settings Container,CN=System
                      (A;CI;RPLC;;;SID)                      fine-grained policies: only domain admins may read them else
  with --expire, for [digest] action = "expire":
  each container      (OA;CIIO;WP;<pwdLastSet>;<class>;SID)  a new password is demanded; none can be set with it

Never the property set Public-Information, though the four attributes belong to it: it also holds userPrincipalName,
servicePrincipalName and altSecurityIdentities, and who writes those takes over accounts. Never "Replicating Directory
Changes All": it gives out password hashes. On Windows the same entries are set with dsacls or Set-Acl.
"""
import sys

import ldb
from samba.auth import system_session
from samba.dcerpc import security
from samba.ndr import ndr_pack, ndr_unpack
from samba.param import LoadParm
from samba.samdb import SamDB

CLASSES = {
    "user": "bf967aba-0de6-11d0-a285-00aa003049e2",
    "inetOrgPerson": "4828cc14-1437-45bc-9b07-ad6f015e5f28",
}
WRITTEN = {
    "msExchIMAddress": "cbbd3752-b8d8-47dc-92ee-ab488c1af969",
    "msExchIMMetaPhysicalURL": "8e7a93a3-5a7c-11d3-aa78-00c04f8eedd8",
    "msExchIMPhysicalURL": "8e7a93a8-5a7c-11d3-aa78-00c04f8eedd8",
    "msExchIMVirtualServer": "41e8fd82-8f37-4e56-a44a-33a3e6b7526c",
}
PASSWORD_DATE = "bf967a0a-0de6-11d0-a285-00aa003049e2"
# The property set User-Account-Restrictions (MS-ADTS 3.1.1.2.3.3).
RESTRICTIONS = "4c164200-20c0-11d0-a768-00aa006e0529"


def grant(db, domain, dn, entries):
    """Puts entries (SDDL) in front of an object's access list; those that are there already stay."""
    controls = ["show_deleted:1", "sd_flags:1:4"]
    found = db.search(dn, scope=ldb.SCOPE_BASE, attrs=["nTSecurityDescriptor"], controls=controls)
    text = ndr_unpack(security.descriptor, found[0]["nTSecurityDescriptor"][0]).as_sddl(domain)
    missing = [entry for entry in entries if entry not in text]
    if not missing:
        return
    at = text.index("(")
    descriptor = security.descriptor.from_sddl(text[:at] + "".join(missing) + text[at:], domain)
    change = ldb.Message(ldb.Dn(db, dn))
    change["descriptor"] = ldb.MessageElement(ndr_pack(descriptor), ldb.FLAG_MOD_REPLACE, "nTSecurityDescriptor")
    db.modify(change, controls=controls)


def main():
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if len(words) < 4 or not set(options) <= {"--digest", "--expire"}:
        sys.exit(__doc__)
    conf, sam, account, *containers = words
    params = LoadParm()
    params.load(conf)
    db = SamDB(sam, session_info=system_session(), lp=params)
    domain = security.dom_sid(db.get_domain_sid())
    base = str(db.get_default_basedn())
    found = db.search(base, expression="(sAMAccountName=%s)" % ldb.binary_encode(account), attrs=["objectSid"])
    if len(found) != 1:
        sys.exit("%s: no such account; make it first: samba-tool user create %s" % (account, account))
    sid = str(ndr_unpack(security.dom_sid, found[0]["objectSid"][0]))

    grant(db, domain, "CN=Deleted Objects," + base, ["(A;CI;RPLC;;;%s)" % sid])
    if "--digest" in options:
        grant(db, domain, "CN=Password Settings Container,CN=System," + base, ["(A;CI;RPLC;;;%s)" % sid])
    for container in containers:
        for kind in CLASSES.values():
            written = ["(OA;CIIO;RPWP;%s;%s;%s)" % (guid, kind, sid) for guid in WRITTEN.values()]
            grant(db, domain, container, written + ["(OA;CIIO;RP;%s;%s;%s)" % (RESTRICTIONS, kind, sid)])
            if "--expire" in options:
                grant(db, domain, container, ["(OA;CIIO;WP;%s;%s;%s)" % (PASSWORD_DATE, kind, sid)])


if __name__ == "__main__":
    main()
