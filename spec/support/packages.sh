#!/bin/sh
# packages.sh demo|test|bench|lint|valgrind: whether everything that a make target needs is there. What is
# missing is named, and installed with apt-get where this user may do so; else the script stops with 1.
PATH=$PATH:/usr/sbin:/sbin
group=$1

# group, package of Debian, how its presence is seen
table() {
  cat <<'END'
demo     pkg-config        command -v pkg-config
demo     gcc               command -v cc
demo     libc6-dev         test -e /usr/include/stdio.h
demo     libgnutls28-dev   pkg-config --exists 'gnutls >= 3.7'
demo     liblua5.4-dev     pkg-config --exists lua5.4
demo     lua5.4            command -v lua5.4
test     liblua5.1-0-dev   pkg-config --exists lua5.1
test     liblua5.2-dev     pkg-config --exists lua5.2
test     liblua5.3-dev     pkg-config --exists lua5.3
test     libluajit-5.1-dev pkg-config --exists luajit
test     lua5.1            command -v lua5.1
test     lua5.2            command -v lua5.2
test     lua5.3            command -v lua5.3
test     luajit            command -v luajit
test     zlib1g-dev        pkg-config --exists zlib
test     libbrotli-dev     pkg-config --exists libbrotlidec
test     libzstd-dev       pkg-config --exists libzstd
test     libpsl-dev        pkg-config --exists libpsl
test     lua-busted        command -v busted
test     luarocks          command -v luarocks
test     ca-certificates   test -e /etc/ssl/certs/ca-certificates.crt
test     openssl           command -v openssl
test     gnutls-bin        command -v gnutls-serv
test     nginx             command -v nginx
test     curl              command -v curl
test     brotli            command -v brotli
test     zstd              command -v zstd
test     libnginx-mod-http-brotli-filter test -e /usr/lib/nginx/modules/ngx_http_brotli_filter_module.so
test     squid             command -v squid
test     tinyproxy         command -v tinyproxy
test     microsocks        command -v microsocks
test     dante-server      command -v danted
test     faketime          command -v faketime
test     tshark            command -v tshark
bench    libssl-dev        pkg-config --exists openssl
bench    lua-socket        lua5.4 -e 'require "socket"'
bench    lua-sec           lua5.4 -e 'require "ssl"'
bench    lua-cqueues       lua5.4 -e 'require "cqueues"'
bench    lua-luaossl       lua5.4 -e 'require "openssl"'
bench    lua-http          lua5.2 -e 'require "http.request"'
bench    lua-curl          lua5.2 -e 'require "curl"'
lint     lua-check         command -v luacheck
lint     gcc               command -v gcc
lint     clang             command -v clang
lint     clang-format      command -v clang-format
valgrind valgrind          command -v valgrind
END
}

# The other targets need what the demo needs, and valgrind what the specs need.
wanted() {
  case $group in
    demo) table | grep "^demo" ;;
    valgrind) table | grep "^demo\|^test\|^valgrind" ;;
    *) table | grep "^demo\|^test\|^$group" ;;
  esac
}

missing() {
  wanted | while read -r _ package check; do
    sh -c "$check" >/dev/null 2>&1 || printf '%s ' "$package"
  done
}

packages=$(missing)
[ -z "$packages" ] && exit 0
echo "missing for make $group: $packages"

if ! command -v apt-get >/dev/null; then
  echo "these are names of Debian's packages; install what your system calls them, and try again" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  as_root=sudo
else
  echo "not root, and no sudo that works here: as root, run apt-get install $packages" >&2
  exit 1
fi

# Servers among them would be started by their packages; the specs start their own, so nothing else of
# this machine should. A policy-rc.d that is already there is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null && $as_root chmod 755 $policy &&
    trap '$as_root rm -f $policy' EXIT
  trap 'exit 1' INT TERM HUP
fi

install() {
  # shellcheck disable=SC2086 -- a list of words
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o DPkg::Lock::Timeout=300 $packages </dev/null
}
echo "installing them with apt-get"
if ! install; then
  $as_root apt-get update -q </dev/null
  install || { echo "apt-get could not install: $packages" >&2; exit 1; }
fi

packages=$(missing)
[ -z "$packages" ] || { echo "installed, and still not found: $packages" >&2; exit 1; }
