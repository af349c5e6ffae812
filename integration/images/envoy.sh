#!/bin/sh
# The stand-in for Envoy: `envoy -c FILE` reads a bootstrap configuration of Envoy's, v2 or v3, of which it understands one
# listener and one cluster's address, and becomes a real proxy between the two: tinyproxy, as a reverse proxy for HTTP.
set -eu

usage() { echo "usage: envoy -c FILE" >&2; exit 2; }

[ $# = 2 ] && [ "$1" = -c ] || usage
file=$2
[ -r "$file" ] || { echo "envoy: cannot read $file" >&2; exit 1; }

# ADDRESS PORT of the first socket address below `listeners` or `clusters`, in YAML's block or flow style.
address_in() {
    sed 's/#.*//' "$file" | tr '{},' '\n\n\n' | awk -v wanted="$1:" '
        { sub(/^[ -]*/, "") }
        $1 ~ /^(listeners|clusters|admin):$/ { inside = ($1 == wanted) }
        inside && $1 == "address:" && $2 != "" { address = $2 }
        inside && $1 == "port_value:" { port = $2 }
        address != "" && port != "" { gsub(/"/, "", address); print address, port; exit }'
}

listener=$(address_in listeners)
cluster=$(address_in clusters)
[ -n "$listener" ] && [ -n "$cluster" ] || { echo "envoy: $file names no listener or no cluster with an address" >&2; exit 1; }
echo "envoy: listening on ${listener% *}:${listener#* }, sending to ${cluster% *}:${cluster#* }"
cat >/tmp/proxy.conf <<EOF
Listen ${listener% *}
Port ${listener#* }
Timeout 60
MaxClients 100
LogLevel Error
ViaProxyName "envoy"
ReverseOnly Yes
ReversePath "/" "http://${cluster% *}:${cluster#* }/"
EOF
exec tinyproxy -d -c /tmp/proxy.conf
