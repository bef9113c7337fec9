# tlsconnect: make, make all-luas, make test, make demo, make lint; README.md says more.
LUA ?= lua5.4
LUAS = lua5.1 lua5.2 lua5.3 lua5.4 luajit
CC ?= cc
CFLAGS ?= -O2 -g
WARNINGS = -Wall -Wextra
BUILD = build/$(LUA)

SOURCES = $(wildcard src/*.c)
OBJECTS = $(SOURCES:src/%.c=$(BUILD)/%.o)
MODULE = $(BUILD)/tlsconnect/core.so

LUA_PC = $(if $(filter luajit,$(LUA)),luajit,$(LUA:lua%=lua%))
LUA_CFLAGS ?= $(shell pkg-config --cflags $(LUA_PC))
GNUTLS_CFLAGS ?= $(shell pkg-config --cflags gnutls)
GNUTLS_LIBS ?= $(shell pkg-config --libs gnutls)

ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden $(WARNINGS) $(CFLAGS) $(LUA_CFLAGS) $(GNUTLS_CFLAGS)

all: $(MODULE)

$(MODULE): $(OBJECTS)
	@mkdir -p $(@D)
	$(CC) -shared $(LDFLAGS) -Wl,-z,nodelete -o $@ $^ $(GNUTLS_LIBS) -lpthread -lm

$(BUILD)/%.o: src/%.c src/core.h src/compat.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

all-luas:
	@for lua in $(LUAS); do $(MAKE) --no-print-directory LUA=$$lua || exit 1; done

env:
	@echo "export LUA_PATH='$(CURDIR)/lua/?.lua;;'"
	@echo "export LUA_CPATH='$(CURDIR)/$(BUILD)/?.so;;'"

clean:
	rm -rf build

.PHONY: all all-luas env clean
