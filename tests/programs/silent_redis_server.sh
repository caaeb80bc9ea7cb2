#!/bin/sh
# A server that states its version (the variable SERVER_VERSION) and then never answers.
case "$1" in
  --version) echo "$SERVER_VERSION" ;;
  *) exec sleep 600 ;;
esac
