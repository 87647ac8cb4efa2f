#!/bin/sh
# Prints the Debian mirror that this machine's apt uses: what comes from another suite
# comes from there, too. Fails if there is none.
set -eu

uri=$(
    {
        cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources 2>/dev/null |
            sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -n 's/^deb[[:space:]]\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p'
    } | grep -E '/debian/?$' | head -n 1
)
if [ -z "$uri" ]; then
    echo "found no Debian mirror in /etc/apt/sources.list*" >&2
    exit 1
fi
echo "$uri"
