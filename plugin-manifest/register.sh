#!/usr/bin/env bash
# Puts the plugin into the catalogue of a running OpenBao or Vault, by its SHA-256, and says what comes next.
#
#   PLUGIN_DIRECTORY   the server's plugin_directory, as this machine sees it; the binary is in it   (required)
#   NAME               what to call it                                          (default: leasehold-database)
#   BINARY             its file name there                                       (default: leasehold)
#   KIND               which engine it serves                                    (default: database)
#   VERSION            the version to register; the plugin's own must be the same (default: the plugin's own)
#   BAO_ADDR BAO_TOKEN BAO_NAMESPACE, or the VAULT_ ones
#
# The CLI is used if there is one (bao, else vault), the HTTP interface otherwise. Needs sudo on sys/plugins/catalog.
set -euo pipefail

die() { printf 'register: %s\n' "$*" >&2; exit 1; }

directory=${PLUGIN_DIRECTORY:-}
name=${NAME:-leasehold-database}
binary=${BINARY:-leasehold}
kind=${KIND:-database}
version=${VERSION:-}

[[ -n $directory ]] || die "set PLUGIN_DIRECTORY to the server's plugin_directory"
[[ ! -L ${directory%/} ]] || die "$directory is a symbolic link: the server refuses to run plugins from it"
[[ -f $directory/$binary ]] || die "no $directory/$binary: copy the binary there first (a copy, not a link)"
[[ ! -L $directory/$binary ]] || die "$directory/$binary is a symbolic link: copy the binary"
[[ -x $directory/$binary ]] || die "$directory/$binary is not executable"
case $name in database | kv) die "the server lets no external plugin be called \"$name\"" ;; esac

sha256=$(sha256sum "$directory/$binary" | cut -d' ' -f1)

if cli=$(command -v bao || command -v vault); then
    options=(-sha256="$sha256" -command="$binary" -args="$kind")
    [[ -z $version ]] || options+=(-version="$version")
    "$cli" plugin register "${options[@]}" secret "$name"
    cli=${cli##*/}
else
    address=${BAO_ADDR:-${VAULT_ADDR:-https://127.0.0.1:8200}}
    token=${BAO_TOKEN:-${VAULT_TOKEN:-}}
    namespace=${BAO_NAMESPACE:-${VAULT_NAMESPACE:-}}
    [[ -n $token ]] || die "no bao or vault on the path, and neither BAO_TOKEN nor VAULT_TOKEN set"
    # The token goes through a file descriptor, not through the arguments, which other users can see.
    curl --silent --show-error --fail-with-body --request PUT --header @<(printf 'X-Vault-Token: %s' "$token") \
        ${namespace:+--header "X-Vault-Namespace: $namespace"} \
        --data "{\"command\":\"$binary\",\"args\":[\"$kind\"],\"sha256\":\"$sha256\"${version:+,\"version\":\"$version\"}}" \
        "${address%/}/v1/sys/plugins/catalog/secret/$name"
    cli=bao
fi

cat <<TEXT
Registered $name ($binary $kind, sha256 $sha256).

Next:
  $cli secrets enable -path=database $name
  $cli write database/config/my-postgresql plugin_name=postgresql-database-plugin allowed_roles=my-role \\
      connection_url='postgresql://{{username}}:{{password}}@db.example.com:5432/app' username=... password=...

After an upgrade of the binary (rename the new one into place), run this again, then:
  $cli plugin reload -plugin=$name
TEXT
