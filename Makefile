# tlsconnect.  make, make all-luas, make install, make demo, make test, make lint; README.md says more.
#
#   LUA=lua5.4        the interpreter to build for: lua5.1, lua5.2, lua5.3, lua5.4, luajit
#   PREFIX, DESTDIR   where make install puts things
#   CC, CFLAGS, LDFLAGS, JOBS (for the specs), SPECS (files or folders), LUAS (what make test runs on)

LUA ?= lua5.4
LUAS ?= lua5.1 lua5.2 lua5.3 lua5.4 luajit
PREFIX ?= /usr/local
CC ?= cc
CFLAGS ?= -O2 -g
PKG_CONFIG ?= pkg-config
BUILD ?= build/$(LUA)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SPECS ?= spec

# Two modules: what stands on optional libraries is loaded when it is used.
SOURCES = $(sort $(wildcard src/*.c))
OBJECTS = $(SOURCES:src/%.c=$(BUILD)/%.o)
OPTIONAL_OBJECTS = $(addprefix $(BUILD)/,optional.o coding.o suffix.o)
SHARED_OBJECTS = $(addprefix $(BUILD)/,error.o type.o)
MODULE = $(BUILD)/tlsconnect/core.so
OPTIONAL_MODULE = $(BUILD)/tlsconnect/optional.so

# What pkg-config knows; a distribution calls Lua's file by one of these names.
LUA_VERSION = $(patsubst lua%,%,$(subst luajit,lua5.1,$(LUA)))
LUA_NAMES = $(LUA) $(patsubst lua%,lua-%,$(LUA)) $(subst .,,$(LUA))
find_flags = $(shell $(PKG_CONFIG) $(1) $(2) 2>/dev/null)
LUA_CFLAGS ?= $(shell for n in $(LUA_NAMES); do $(PKG_CONFIG) --cflags $$n 2>/dev/null && break; done)
GNUTLS_CFLAGS ?= $(call find_flags,--cflags,gnutls)
GNUTLS_LIBS ?= $(call find_flags,--libs,gnutls)
LUA_CFLAGS := $(LUA_CFLAGS)
GNUTLS_CFLAGS := $(GNUTLS_CFLAGS)
GNUTLS_LIBS := $(GNUTLS_LIBS)

# Optional libraries: each one that is there is used.
have = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo -DHAVE_$(2) `$(PKG_CONFIG) --cflags $(1)`)
OPTIONAL := zlib libbrotlidec libzstd libpsl
OPTIONAL_CFLAGS := $(call have,zlib,ZLIB) $(call have,libbrotlidec,BROTLI) $(call have,libzstd,ZSTD) \
  $(call have,libpsl,PSL)
OPTIONAL_LIBS := $(foreach name,$(OPTIONAL),$(call find_flags,--libs,$(name)))

WARNINGS = -Wall -Wextra
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread $(WARNINGS) $(CFLAGS) $(LUA_CFLAGS) \
  $(GNUTLS_CFLAGS) $(OPTIONAL_CFLAGS)
# nodelete: a look-up's thread may outlive lua_close, and must not lose its code.
ALL_LDFLAGS = -shared -pthread -Wl,-z,nodelete -Wl,--as-needed $(LDFLAGS)

all: $(MODULE) $(OPTIONAL_MODULE)

$(MODULE): $(filter-out $(OPTIONAL_OBJECTS),$(OBJECTS))
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(GNUTLS_LIBS) -lm

$(OPTIONAL_MODULE): $(OPTIONAL_OBJECTS) $(SHARED_OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(GNUTLS_LIBS) $(OPTIONAL_LIBS)

$(BUILD)/%.o: src/%.c | $(BUILD)/found
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d)

# The development files, looked for before the compiler fails on them.
$(BUILD)/found:
	@mkdir -p $(@D)
	@echo | $(CC) -E - >/dev/null 2>&1 || { \
	  echo "tlsconnect: the C compiler '$(CC)' does not run (on Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }
	@printf '#include <lua.h>\n#include <lauxlib.h>\n' | $(CC) $(LUA_CFLAGS) -E - >/dev/null 2>&1 || { \
	  echo "tlsconnect: no headers of $(LUA) found (on Debian: apt-get install pkg-config $(LUA_PACKAGE))" >&2; exit 1; }
	@printf '#include <gnutls/gnutls.h>\n#if GNUTLS_VERSION_NUMBER < 0x030700\n#error old\n#endif\n' | \
	  $(CC) $(GNUTLS_CFLAGS) -E - >/dev/null 2>&1 || { \
	  echo "tlsconnect: no headers of GnuTLS 3.7 or later found (on Debian: apt-get install pkg-config libgnutls28-dev)" >&2; exit 1; }
	@touch $@

LUA_PACKAGE = $(patsubst %,lib%-dev,$(subst luajit,luajit-5.1,$(subst lua5.1,lua5.1-0,$(LUA))))

all-luas:
	@for lua in $(LUAS); do $(MAKE) --no-print-directory LUA=$$lua || exit 1; done

# The folders of an installation; luarocks gives its own.
LUADIR ?= $(PREFIX)/share/lua/$(LUA_VERSION)
LIBDIR ?= $(PREFIX)/lib/lua/$(LUA_VERSION)
BINDIR ?= $(PREFIX)/bin

install: all
	@set -e; cd lua; find . -name '*.lua' | while read -r file; do \
	  install -D -m 644 "$$file" "$(DESTDIR)$(LUADIR)/$${file#./}"; done
	install -D -m 755 $(MODULE) "$(DESTDIR)$(LIBDIR)/tlsconnect/core.so"
	install -D -m 755 $(OPTIONAL_MODULE) "$(DESTDIR)$(LIBDIR)/tlsconnect/optional.so"
	@install -d "$(DESTDIR)$(BINDIR)"
	@printf '#!/usr/bin/env %s\nos.exit(require("tlsconnect.cli").main(arg), true)\n' $(LUA) >"$(DESTDIR)$(BINDIR)/tlsconnect"
	chmod 755 "$(DESTDIR)$(BINDIR)/tlsconnect"

env:
	@echo "export LUA_PATH='$(CURDIR)/lua/?.lua;;'"
	@echo "export LUA_CPATH='$(CURDIR)/$(BUILD)/?.so;;'"

# What must be there first: said, and installed where that is possible.
packages-%:
	@sh spec/support/packages.sh $*

demo: packages-demo
	@$(MAKE) --no-print-directory -s all LUA=$(LUA)
	@eval "$$($(MAKE) -s env LUA=$(LUA))"; $(LUA) spec/support/demo.lua

test: packages-test
	@$(MAKE) --no-print-directory -s all-luas
	@$(MAKE) --no-print-directory -s LUA=lua5.4 build/lua5.4/alloc_fail
	@JOBS=$(JOBS) sh spec/support/test.sh build/test "$(LUAS)" $(SPECS)

# What takes minutes, whole (make test runs it in short form): ten thousand of each, gigabytes. The same under
# the sanitizers: SOAK=1 make sanitize SPECS=spec/soak.
soak: packages-test
	@$(MAKE) --no-print-directory -s all LUA=$(LUA)
	@ulimit -n 4096 2>/dev/null; SOAK=1 JOBS=$(JOBS) sh spec/support/test.sh build/soak $(LUA) spec/soak spec/fuzz

# The tables of README.md, from those in the source.
readme: all
	@eval "$$($(MAKE) -s env LUA=$(LUA))"; $(LUA) spec/support/readme.lua

# Certificate chains of other projects: a table by kind, and what is answered otherwise than they expect.
corpus: packages-test
	@$(MAKE) --no-print-directory -s all LUA=$(LUA)
	@eval "$$($(MAKE) -s env LUA=$(LUA))"; $(LUA) spec/corpus/run.lua

# Figures beside other libraries': ONLY=name, JSON=file, ROUNDS=n; see spec/bench/run.lua.
BENCH = build/bench
bench: packages-bench
	@$(MAKE) --no-print-directory -s all LUA=lua5.4
	@mkdir -p $(BENCH)
	@set -e; for client in gnutls openssl spawn delay; do \
	  case $$client in gnutls|openssl) libraries=`$(PKG_CONFIG) --cflags --libs $$client` ;; *) libraries= ;; esac; \
	  $(CC) -std=c11 -D_GNU_SOURCE -O2 $(WARNINGS) -o $(BENCH)/$$client spec/bench/$$client.c $$libraries; \
	done
	@eval "$$($(MAKE) -s env LUA=lua5.4)"; ONLY="$(ONLY)" JSON="$(JSON)" lua5.4 spec/bench/run.lua

# The kept figures, and the table of README.md: the medians of three whole runs. For a quiet machine.
figures:
	@for run in 1 2 3; do KEPT=none $(MAKE) --no-print-directory bench ONLY= JSON=$(BENCH)/run$$run.json || exit 1; done
	@lua5.4 spec/bench/summary.lua $(BENCH)/run1.json $(BENCH)/run2.json $(BENCH)/run3.json
	@$(MAKE) --no-print-directory readme LUA=lua5.4

# Lets the n-th allocation fail; its malloc is its own, so nothing may be inlined for it.
build/lua5.4/alloc_fail: spec/support/alloc_fail.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -O1 -g -Wall -Wextra -rdynamic -fno-builtin -pthread $(shell $(PKG_CONFIG) --cflags lua5.4) -o $@ $< \
	  $(shell $(PKG_CONFIG) --libs lua5.4) -ldl

# Compiled with both compilers for every Lua, each warning an error.
lint: packages-lint
	luacheck -q lua spec rockspec/*.rockspec
	clang-format --dry-run -Werror $(sort $(wildcard src/*.[ch] spec/support/*.c spec/corpus/*.c spec/bench/*.[ch]))
	@set -e; for lua in $(LUAS); do for compiler in gcc clang; do \
	  $(MAKE) --no-print-directory -s -j$(JOBS) LUA=$$lua CC=$$compiler BUILD=build/lint/$$compiler-$$lua CFLAGS="-O2 -Werror"; \
	done; done
	@echo "lint: no complaint"

format:
	clang-format -i $(wildcard src/*.[ch] spec/support/*.c spec/corpus/*.c spec/bench/*.[ch])

SANITIZER = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
sanitize: packages-test
	@$(MAKE) --no-print-directory -s all LUA=lua5.4 CC=gcc BUILD=build/sanitize CFLAGS="-O1 -g $(SANITIZER)"
	@gcc -Wall -Wextra -shared -fPIC -o build/sanitize/unpreload.so spec/support/unpreload.c
	@MODULES=build/sanitize SANITIZE=1 JOBS=$(JOBS) sh spec/support/test.sh build/sanitize/test lua5.4 $(SPECS)

valgrind: packages-valgrind
	@$(MAKE) --no-print-directory -s all LUA=lua5.4 BUILD=build/valgrind CFLAGS="-O1 -g"
	@MODULES=build/valgrind VALGRIND=1 JOBS=$(JOBS) sh spec/support/test.sh build/valgrind/test lua5.4 $(SPECS)

# How much of the C code the specs reach.
coverage: packages-test
	@$(MAKE) --no-print-directory -s all LUA=lua5.4 CC=gcc BUILD=build/coverage CFLAGS="-O0 -g --coverage"
	@find build/coverage -name '*.gcda' -delete
	@MODULES=build/coverage JOBS=$(JOBS) sh spec/support/test.sh build/coverage/test lua5.4 $(SPECS)
	@gcov -n -o build/coverage $(SOURCES) | awk '/^File/ { file = $$2 } /^Lines/ { print file, $$2, $$3, $$4 }' | grep "src/"

clean:
	rm -rf build

.PHONY: all all-luas install env demo test soak readme corpus bench figures lint format sanitize valgrind coverage clean
.DELETE_ON_ERROR:
