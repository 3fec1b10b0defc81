# Shell functions that the scripts share; source it from bash
#
# Copyright (c) 2026 The vhost-vdpa backend authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

set -euo pipefail

# The tools must be the distribution's: a python3 or meson of the user's own,
# earlier in PATH, lacks the modules that QEMU's build looks for.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$ROOT/build
LOGS=$BUILD/logs
CACHE=${XDG_CACHE_HOME:-${HOME:?the variable HOME must be set}/.cache}
CACHE=$CACHE/qemu-vhost-vdpa
QEMU_TREE=${QEMU_TREE:-$BUILD/qemu}
if [ -n "${DEBUG:-}" ] && [ "${DEBUG:-}" != 0 ]; then
    QEMU_BUILD=${QEMU_BUILD:-$QEMU_TREE/build-debug}
else
    QEMU_BUILD=${QEMU_BUILD:-$QEMU_TREE/build}
fi
JOBS=${JOBS:-$(nproc)}
PYTHON=/usr/bin/python3

mkdir -p "$LOGS"

# log TEXT: something worth telling, under the current step
log() {
    printf '   %s\n' "$*"
}

# step TEXT: a long step begins
step() {
    printf '== %s\n' "$*"
}

# die TEXT: the one clear sentence, and the end
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# relative PATH: how to show a path to the user
relative() {
    case $1 in
    "$PWD"/*) printf '%s' "${1#"$PWD"/}" ;;
    *) printf '%s' "$1" ;;
    esac
}

# logged NAME WHAT COMMAND...: runs COMMAND with its output in
# build/logs/NAME.log; when it fails, says so, shows the end of the log and
# ends the script
logged() {
    local file=$LOGS/$1.log what=$2 rc=0
    shift 2
    "$@" >"$file" 2>&1 </dev/null || rc=$?
    if [ "$rc" -ne 0 ]; then
        tail -n 15 "$file" | sed 's/^/   | /' >&2
        die "$what failed (exit status $rc); log: $(relative "$file")"
    fi
}

# progress NAME WHAT COMMAND...: like logged, for a command with a counter
# such as ninja's [7/99]: shown on a terminal as it moves, else as a line now
# and then
progress() {
    local file=$LOGS/$1.log what=$2 rc=0
    shift 2
    "$@" 2>&1 </dev/null |
        "$PYTHON" "$ROOT/scripts/progress.py" --log "$file" "$what" || rc=$?
    if [ "$rc" -ne 0 ]; then
        if ! grep -A 20 -m 3 -E '^FAILED:|error:' "$file" |
                cut -c 1-400 | head -n 40 | sed 's/^/   | /' >&2; then
            tail -n 15 "$file" | sed 's/^/   | /' >&2
        fi
        die "$what failed; log: $(relative "$file")"
    fi
}

# ask_for_root: lets sudo ask for a password while there is a terminal to do
# so; what follows may run with its output in a log
ask_for_root() {
    if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null &&
            ! sudo -n true 2>/dev/null && [ -t 0 ] && [ -t 2 ]; then
        sudo -v || die "packages are to be installed, and sudo does not let" \
            "you: run this as root, or install them yourself"
    fi
}

# as_root COMMAND...: runs COMMAND as root, through sudo if need be; call
# ask_for_root before
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        echo "this needs root, and there is no sudo: $*" >&2
        return 1
    fi
}

# missing_packages PACKAGE...: prints those that are not installed
missing_packages() {
    local installed package
    # dpkg-query fails if it does not know one of them at all
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" \
                    2>/dev/null) || true
    for package; do
        case $'\n'$installed$'\n' in
        *$'\n'"installed $package"$'\n'*) ;;
        *) echo "$package" ;;
        esac
    done
}

_apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=600 install -y \
        --no-install-recommends "$@"
}

_apt_update_and_install() {
    # The machine's package lists may be missing or older than its archive
    _apt_install "$@" || {
        as_root apt-get -o DPkg::Lock::Timeout=600 update
        _apt_install "$@"
    }
}

# need_packages PACKAGE...: installs with apt what is not there yet; without
# network if nothing is missing
need_packages() {
    local missing
    if ! command -v dpkg-query >/dev/null; then
        [ -n "${NO_PACKAGES:-}" ] && return 0
        die "this machine has no dpkg: install what the Debian packages" \
            "[$*] hold, then set NO_PACKAGES=1"
    fi
    mapfile -t missing < <(missing_packages "$@")
    if [ "${#missing[@]}" -eq 0 ]; then
        return 0
    fi
    if [ -n "${NO_PACKAGES:-}" ]; then
        log "NO_PACKAGES is set, not installed: ${missing[*]}"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "packages are missing and there is no sudo to install them;" \
            "as root, run: apt-get install ${missing[*]}"
    fi
    step "installing ${#missing[@]} packages: ${missing[*]}"
    ask_for_root
    logged packages "installing packages" \
        _apt_update_and_install "${missing[@]}"
}

#
# The archive of one Debian release, by a private apt configuration: nothing of
# the machine's own is changed, and root is not needed. The archive's address
# is the one that the machine's apt uses for Debian, whichever release that is.
#

_APT=$CACHE/apt
_APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The addresses that could be Debian's main archive, best first
_debian_archives() {
    local own=()
    if [ -z "$(apt-get indextargets 'Created-By: Packages')" ]; then
        # The machine has no lists (a fresh container image): get its own,
        # without touching it
        mkdir -p "$_APT/machine/partial"
        own=(-o "Dir::State::Lists=$_APT/machine"
             -o "APT::Sandbox::User=$(id -un)")
        apt-get "${own[@]}" update >&2 || true
    fi
    apt-get ${own[@]+"${own[@]}"} indextargets \
        --format '$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)' \
        'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && $4 == "main" &&
                   $3 !~ /-/ && $5 !~ /^cdrom:/ && !seen[$5]++ { print $5 }'
}

_release_update() {
    local release=$1 folder=$_APT/$1 uri type
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    while read -r uri; do
        for type in deb deb-src; do
            printf '%s [signed-by=%s] %s %s main\n' \
                "$type" "$_APT_KEYRING" "$uri" "$release"
        done >"$folder/sources.list"
        if apt_release "$release" -o APT::Update::Error-Mode=any update; then
            return 0
        fi
    done < <(_debian_archives)
    rm -f "$folder/sources.list"
    echo "none of the archives of this machine's apt configuration offers" \
         "Debian $release, or the network is down" >&2
    return 1
}

# release_update RELEASE: fetches the package lists of that Debian release,
# such as trixie, once a run
declare -A _RELEASE_UPDATED=()
release_update() {
    [ -n "${_RELEASE_UPDATED[$1]:-}" ] && return 0
    [ -r "$_APT_KEYRING" ] || need_packages debian-archive-keyring
    logged "apt-$1" "fetching the package lists of Debian $1" \
        _release_update "$1"
    _RELEASE_UPDATED[$1]=1
}

# apt_release RELEASE ARGUMENTS...: apt-get on that Debian release, after
# release_update; for example "apt_release trixie download meson" (in a folder
# of the caller's choice)
apt_release() {
    local folder=$_APT/$1
    shift
    apt-get \
        -o "Dir::Etc::SourceList=$folder/sources.list" \
        -o "Dir::Etc::SourceParts=/dev/null" \
        -o "Dir::Etc::Preferences=/dev/null" \
        -o "Dir::Etc::PreferencesParts=/dev/null" \
        -o "Dir::State::Lists=$folder/lists" \
        -o "Dir::Cache=$folder/cache" \
        -o "APT::Sandbox::User=$(id -un)" \
        -o "Acquire::Languages=none" \
        -o "Acquire::Retries=3" \
        -o "APT::Architecture=amd64" \
        -o "APT::Architectures=amd64" \
        -o "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false" \
        -o "APT::Update::Post-Invoke::=true" \
        -o "APT::Update::Post-Invoke-Success::=true" \
        "$@"
}

# What most is taken from, newer than Debian 12
trixie_update() {
    release_update trixie
}

apt_trixie() {
    apt_release trixie "$@"
}

# fetch_trixie_deb FOLDER PACKAGE...: has one .deb of each PACKAGE in FOLDER,
# fetched only if there is none
fetch_trixie_deb() {
    local folder=$1 package
    shift
    mkdir -p "$folder"
    for package; do
        compgen -G "$folder/${package}_*.deb" >/dev/null && continue
        trixie_update
        rm -rf "$folder/partial.$package"
        mkdir "$folder/partial.$package"
        (cd "$folder/partial.$package" &&
            logged "fetch-$package" "fetching $package" \
                apt_trixie download "$package")
        mv "$folder/partial.$package/${package}"_*.deb "$folder/"
        rmdir "$folder/partial.$package"
    done
}
