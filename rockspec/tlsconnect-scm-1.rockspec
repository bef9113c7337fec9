rockspec_format = "3.0"
package = "tlsconnect"
version = "scm-1"
source = {
  url = "file://.",
}
description = {
  summary = "Verified TLS and HTTPS in one call, over GnuTLS",
  detailed = [[
A TLS and HTTPS library for Lua: verified by default, one deadline over a whole call, never
blocking when it runs on an event loop, and able to tell every step of a connection.]],
  license = "MIT",
  labels = { "tls", "ssl", "https", "http", "network" },
}
dependencies = {
  "lua >= 5.1, < 5.6",
}
external_dependencies = {
  GNUTLS = { header = "gnutls/gnutls.h" },
}
build = {
  type = "make",
  -- A folder for each Lua: what was compiled for one is of no use to another.
  build_variables = {
    BUILD = "build/rock$(LUA_INCDIR)",
    CFLAGS = "$(CFLAGS)",
    LUA_CFLAGS = "-I$(LUA_INCDIR)",
    GNUTLS_CFLAGS = "-I$(GNUTLS_INCDIR)",
    GNUTLS_LIBS = "-L$(GNUTLS_LIBDIR) -lgnutls",
  },
  install_variables = {
    BUILD = "build/rock$(LUA_INCDIR)",
    CFLAGS = "$(CFLAGS)",
    LUA_CFLAGS = "-I$(LUA_INCDIR)",
    GNUTLS_CFLAGS = "-I$(GNUTLS_INCDIR)",
    GNUTLS_LIBS = "-L$(GNUTLS_LIBDIR) -lgnutls",
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
    BINDIR = "$(BINDIR)",
  },
}
