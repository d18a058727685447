#!/bin/sh
# Stand-ins for the images of docker-compose.yml, out of Debian packages: for a machine with a Docker engine that can
# reach Debian's archive and no image registry. They carry the very names that the compose file uses, so that it runs
# as it is. They show its wiring, not the official images; docs/compose.md says what that leaves open.
#
#   tests/compose/standins.sh       as root, about 5 minutes; needs mmdebstrap
set -eu
here=$(cd "$(dirname "$0")" && pwd)/standins
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

if ! docker image inspect signalq-standins >/dev/null 2>&1; then
    # Debian 13 has the versions that the compose file asks for, or near ones: Python 3.13, PostgreSQL 17, Redis 8.
    mmdebstrap --mode=root --variant=minbase --include=ca-certificates,python3,python3-venv,python3-aiosmtpd \
        --include=postgresql,redis-server,rabbitmq-server,prometheus,wget trixie - | docker import - signalq-standins
fi

cp "$here"/* "$context"
# What this machine trusts, the image trusts: wheels may come through a proxy.
cp /etc/ssl/certs/ca-certificates.crt "$context"

standin() { # TARGET IMAGE
    docker build --quiet --target "$1" --tag "$2" "$context"
}

standin python python:3.13-slim
standin postgres postgres:17
standin redis redis:8
standin mailpit axllent/mailpit:v1.27
standin rabbitmq rabbitmq:4.1
standin prometheus prom/prometheus:v3.5.0
standin grafana grafana/grafana:12.1.0
