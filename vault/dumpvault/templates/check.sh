#!/bin/sh
# Checks this evidence with sha256sum, openssl (3.0 or later) and ssh-keygen alone. README.txt says what each step shows.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

# The value of a field of strings in a JSON object on one line: the last one of that name.
field() { sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p" "$2"; }

# The node over $1 and $2, into $3 (RFC 6962, section 2.1).
node() {
    { printf '\001' && cat "$1" "$2"; } | openssl dgst -sha256 -binary > "$work/node"
    mv "$work/node" "$3"
}

# Whether the last line of the note $1 is a good signature of its text by $2; Ed25519, after four bytes of key id.
note() {
    sed '/^$/,$d' "$1" > "$work/text"
    grep -F -- "— $(head -n 1 "$1") " "$1" | head -n 1 | sed 's/.* //' | openssl base64 -d -A | tail -c 64 > "$work/sig"
    openssl pkeyutl -verify -pubin -inkey "$2" -rawin -in "$work/text" -sigfile "$work/sig" > /dev/null 2>&1
}

echo '1. every file is as it was exported'
sha256sum --quiet -c SHA256SUMS || fail 'a file was changed'

if [ -e keys/manifest-signer ]; then
    echo "2. the manifest is signed by $(cat keys/manifest-signer)"
    ssh-keygen -Y verify -f keys/allowed_signers -I "$(cat keys/manifest-signer)" -n dumpvault-manifest@v1 \
        -s vault/manifest.json.sig < vault/manifest.json > /dev/null || fail 'vault/manifest.json'
else
    echo '2. NOT CHECKED: no signer of the manifest is of a kind that ssh-keygen knows'
fi
field payload vault/manifest.dsse.json | openssl base64 -d -A | cmp -s - vault/manifest.json || fail 'vault/manifest.dsse.json'

echo '3. the checkpoint is signed by the log'
note checkpoint keys/log.pem || fail 'checkpoint'

echo '4. each entry is signed by its actor, names this manifest, and is in the log'
: > "$work/texts"
manifest=$(sha256sum vault/manifest.dsse.json | cut -d ' ' -f 1)
header=$(sha256sum vault/vault.dsse.json | cut -d ' ' -f 1)
for proof in proofs/*.tlog-proof; do
    sed -n 's/^extra //p' "$proof" | openssl base64 -d -A > "$work/entry"
    field payload "$work/entry" | openssl base64 -d -A > "$work/payload"
    key="keys/$(field keyid "$work/entry" | openssl dgst -sha256 -r | cut -c 1-16).pem"
    if [ -e "$key" ]; then
        { printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < "$work/payload")" && cat "$work/payload"; } > "$work/pae"
        field sig "$work/entry" | openssl base64 -d -A > "$work/sig"
        openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/pae" -sigfile "$work/sig" > /dev/null 2>&1 ||
            fail "$proof: its signature"
        who='signature good'
    else
        who='SIGNATURE NOT CHECKED: of a kind that this script does not know'
    fi
    grep -q -e "\"sha256\":\"$manifest\"" -e "\"sha256\":\"$header\"" "$work/payload" || fail "$proof: of another vault"

    sed '1,/^$/d' "$proof" > "$work/checkpoint"
    note "$work/checkpoint" keys/log.pem || fail "$proof: its checkpoint"
    sha256sum < "$work/text" >> "$work/texts"
    size=$(sed -n 2p "$work/text")
    sed -n 3p "$work/text" | openssl base64 -d -A > "$work/root"
    { printf '\000' && cat "$work/entry"; } | openssl dgst -sha256 -binary > "$work/hash"
    index=$(sed -n 's/^index //p' "$proof")
    at=$index
    last=$((size - 1))
    sed -e '1,/^index /d' -e '/^$/,$d' "$proof" > "$work/hashes"
    while read -r sibling; do
        [ "$last" -gt 0 ] || fail "$proof: too many hashes"
        printf %s "$sibling" | openssl base64 -d -A > "$work/sibling"
        if [ $((at & 1)) = 1 ] || [ "$at" = "$last" ]; then
            node "$work/sibling" "$work/hash" "$work/hash"
            while [ $((at & 1)) = 0 ] && [ "$at" != 0 ]; do
                at=$((at >> 1))
                last=$((last >> 1))
            done
        else
            node "$work/hash" "$work/sibling" "$work/hash"
        fi
        at=$((at >> 1))
        last=$((last >> 1))
    done < "$work/hashes"
    if [ "$last" != 0 ] || ! cmp -s "$work/hash" "$work/root"; then
        fail "$proof: not in the log"
    fi
    echo "   entry $index: $(field event "$work/payload"), $(field time "$work/payload") by its actor's clock, $who"
done

echo '5. who else had seen the log'
for seen in witnesses/*; do
    [ -e "$seen/key.pem" ] || continue
    openssl pkeyutl -verify -pubin -inkey "$seen/key.pem" -rawin -in "$seen/signed" -sigfile "$seen/sig" > /dev/null 2>&1 ||
        fail "$seen"
    sed '1,2d' "$seen/signed" > "$work/text"
    grep -q -F "$(sha256sum < "$work/text")" "$work/texts" || fail "$seen: of another checkpoint"
    when=$(date -u -d "@$(sed -n 's/^time //p' "$seen/signed")" +%Y-%m-%dT%H:%M:%SZ)
    echo "   ${seen#*/*-}: had seen the first $(sed -n 2p "$work/text") entries by $when"
done
echo 'all of it holds'
