#!/bin/sh
# What the container runs: geoseg with the arguments given, or `dask …`, `python …`.
# It becomes that program, so that a pod's SIGTERM reaches it.
set -eu
case ${1:-} in
    dask | dask-* | python | sh | bash) exec "$@" ;;
    *) exec geoseg "$@" ;;
esac
