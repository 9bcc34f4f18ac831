#!/usr/bin/env bash
# Hands a labelling run to a Ray cluster that is there: it goes on when this terminal is closed.
#
#   deploy/submit.sh http://HEAD:8265 /shared/photos /shared/classes.yaml /shared/run --workers 8
#
# The folders are storage that every node has under the same path. The same call again goes on with the run. Where the
# cluster asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH name it here too. What it needs: docs/cluster.md.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: $0 http://HEAD:8265 IMAGES CLASSES RUN [option of groundlabel annotate …]" >&2
    exit 2
fi
exec ray job submit --address "$1" -- \
    groundlabel annotate "$2" --classes "$3" --output "$4" --address auto "${@:5}"
