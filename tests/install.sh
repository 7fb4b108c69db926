#!/usr/bin/env bash
# Installs the Debian packages of the programs named, as far as those are missing. Says so first; touches nothing else.
#
#   tests/install.sh cc make slapd ldapadd nsd openssl systemd-analyze samba mdb_copy faketime
set -euo pipefail

# Servers live in sbin, which is not in everybody's path.
PATH=$PATH:/usr/sbin:/sbin

package_of() {
    case $1 in
        cc) echo gcc libc6-dev ;;
        make) echo make ;;
        slapd) echo slapd ;;
        ldapadd) echo ldap-utils ;;
        nsd) echo nsd ;;
        ns-slapd) echo 389-ds-base ;;
        dscreate) echo python3-lib389 ;;
        openssl) echo openssl ;;
        faketime) echo faketime ;;
        setpriv) echo util-linux ;;
        systemd-analyze) echo systemd ;;
        mdb_copy) echo lmdb-utils ;;
        promtool) echo prometheus ;;
        chromium) echo chromium ;;
        krb5-config) echo libkrb5-dev libclang-dev ;;
        samba) echo samba samba-ad-dc samba-dsdb-modules samba-ad-provision ldb-tools python3-samba ;;
        *)
            echo "$0: no package is known for $1" >&2
            exit 2
            ;;
    esac
}

packages=()
for program in "$@"; do
    command -v "$program" >/dev/null && continue
    read -ra found <<<"$(package_of "$program")"
    packages+=("${found[@]}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

by_hand="apt-get update && apt-get install --no-install-recommends ${packages[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        printf 'These packages are missing: %s\nInstall them as root, then try again:\n  %s\n' "${packages[*]}" "$by_hand" >&2
        exit 1
    fi
    as_root=(sudo)
fi
if ! command -v apt-get >/dev/null; then
    printf 'These packages (by their Debian names) are missing, and there is no apt-get: %s\n' "${packages[*]}" >&2
    exit 1
fi

echo "Installing ${packages[*]} with apt-get; no service is started."
# Debian starts a service when it installs one, unless this script forbids it. Ours goes again; one that is there stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap '"${as_root[@]}" rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
fi
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
# Lists that are old or absent are the usual reason for a failure: fetched again, once.
if ! { "${install[@]}" update && "${install[@]}" install --no-install-recommends "${packages[@]}"; } </dev/null >&2; then
    printf 'That did not work. By hand, as root:\n  %s\n' "$by_hand" >&2
    exit 1
fi
