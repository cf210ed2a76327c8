# SPDX-License-Identifier: MIT
#
# Builds, tests and installs libuffdwp. `make help` lists the targets and the variables.
#
# Whatever lies in libuffdwp/, libuffdwp/image/, tools/*/, examples/, tests/unit/ and tests/live/ is found by name: a
# new file needs no line here. Everything made goes to $(BUILD), one directory a configuration.

PREFIX = /usr/local
LIBDIR = $(PREFIX)/lib
BINDIR = $(PREFIX)/bin
INCLUDEDIR = $(PREFIX)/include
MANDIR = $(PREFIX)/share/man
PKG_CONFIG = pkg-config
V = 0

# address (with undefined) or thread: which sanitizer to build with.
SAN =
SAN_FLAGS_address = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_FLAGS_thread = -fsanitize=thread -fno-omit-frame-pointer
SAN_BUILD_address = build/asan
SAN_BUILD_thread = build/tsan
ifneq ($(SAN),)
ifeq ($(SAN_FLAGS_$(SAN)),)
$(error SAN=$(SAN): must be address or thread)
endif
BUILD = $(SAN_BUILD_$(SAN))
else
BUILD = build
endif

HEADER = include/uffdwp.h
macro = $(shell sed -n 's/^\#define UFFDWP_VERSION_$(1) //p' $(HEADER))
MAJOR := $(call macro,MAJOR)
VERSION := $(MAJOR).$(call macro,MINOR).$(call macro,PATCH)
SONAME := libuffdwp.so.$(MAJOR)
IMAGE_SONAME := libuffdwp-image.so.$(MAJOR)

# ---- Flags. The user's CFLAGS, CPPFLAGS and LDFLAGS come last, so they win. ----

WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wpointer-arith \
	-Wwrite-strings -Wvla $(if $(filter 1,$(WERROR)),-Werror)
# PIC for everything: the same objects make the static and the shared library.
ALL_CFLAGS = -std=c11 -O2 -g $(WARNINGS) -pthread -fPIC -fvisibility=hidden \
	$(SAN_FLAGS_$(SAN)) $(CFLAGS)
ALL_CPPFLAGS = -D_GNU_SOURCE -Iinclude $(CPPFLAGS)
ALL_LDFLAGS = -pthread -Wl,--as-needed $(SAN_FLAGS_$(SAN)) $(LDFLAGS)
# With -z defs a symbol that libc lacks fails here, not at the user. A sanitizer's run-time library
# is in the program alone, so then it can not hold.
SO_LDFLAGS = -shared -Wl,-soname,$(1) -Wl,--version-script=$(filter %.map,$^) \
	-Wl,-Bsymbolic-functions $(if $(SAN),,-Wl$(comma)-z$(comma)defs)
comma = ,

# libuffdwp links libc alone, libuffdwp-image liburing too; tools and tests what there is. A library
# that is not used is not linked.
URING_LIBS = $(shell $(PKG_CONFIG) --libs liburing 2>/dev/null || echo -luring)
TOOL_LIBS = $(shell $(PKG_CONFIG) --libs libseccomp 2>/dev/null)
# A peer of uffd-bench, left out where it is not installed. It is under the GPL, and so is then what is
# passed on of that program; make SIGSEGV_LIBS= does without.
SIGSEGV_LIBS := $(shell echo '\#include <sigsegv.h>' | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && \
	echo -lsigsegv)
# One example is about SQLite. Without it that one says so, and is skipped.
SQLITE_LIBS := $(shell echo '\#include <sqlite3.h>' | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && \
	echo -lsqlite3)
TEST_LIBS = $(shell $(PKG_CONFIG) --libs check 2>/dev/null) $(TOOL_LIBS)
TEST_CPPFLAGS = $(shell $(PKG_CONFIG) --cflags check 2>/dev/null)

# ---- What there is to build ----

LIB_SRC := $(wildcard libuffdwp/*.c)
IMAGE_SRC := $(wildcard libuffdwp/image/*.c)
COMMON_SRC := $(wildcard tools/common/*.c)
TOOLS := $(patsubst tools/%/,%,$(filter-out tools/common/,$(sort $(dir $(wildcard tools/*/*.c)))))
EXAMPLE_SRC := $(wildcard examples/*.c)
UNIT_SRC := $(wildcard tests/unit/*.c)
LIVE_SRC := $(wildcard tests/live/*.c)
TORTURE_SRC := $(wildcard tests/torture/*.c)
FAULT_SRC := $(wildcard tests/fault/*.c)
# Shared by the test programs, and no test itself.
TEST_COMMON_SRC := $(wildcard tests/common/*.c)
MAN := $(wildcard docs/*.[137])

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
program = $(patsubst %.c,$(BUILD)/%,$(1))

STATIC = $(BUILD)/libuffdwp.a
SHARED = $(BUILD)/libuffdwp.so.$(VERSION)
IMAGE_STATIC = $(BUILD)/libuffdwp-image.a
IMAGE_SHARED = $(BUILD)/libuffdwp-image.so.$(VERSION)
LIBS = $(STATIC) $(SHARED) $(BUILD)/$(SONAME) $(BUILD)/libuffdwp.so \
	$(IMAGE_STATIC) $(IMAGE_SHARED) $(BUILD)/$(IMAGE_SONAME) $(BUILD)/libuffdwp-image.so
PC = libuffdwp.pc libuffdwp-image.pc
TOOL_BINS = $(TOOLS:%=$(BUILD)/%)
EXAMPLE_BINS = $(call program,$(EXAMPLE_SRC))
UNIT_BINS = $(call program,$(UNIT_SRC))
LIVE_BINS = $(call program,$(LIVE_SRC))
TORTURE_BINS = $(call program,$(TORTURE_SRC))
FUZZ_BINS = $(addprefix $(BUILD)/tests/fuzz/,image options events)
FUZZ_SEEDS = $(BUILD)/tests/fuzz/seeds
FAULT_BIN = $(BUILD)/tests/fault/inject
# The library once more, with its system calls marked: see tests/fault/site.h.
FAULT_LIB_SRC = $(LIB_SRC) $(IMAGE_SRC)
FAULT_LIB = $(patsubst %.c,$(BUILD)/obj/fault/%.o,$(FAULT_LIB_SRC))

# What is installed, as file:where, and what is only linked, as @file:where. Install and uninstall
# know nothing else.
INSTALLED = $(HEADER):$(INCLUDEDIR)/uffdwp.h \
	$(foreach h,$(wildcard include/uffdwp/*.h),$(h):$(INCLUDEDIR)/uffdwp/$(notdir $(h))) \
	$(STATIC):$(LIBDIR)/libuffdwp.a \
	$(SHARED):$(LIBDIR)/$(notdir $(SHARED)) \
	@$(notdir $(SHARED)):$(LIBDIR)/$(SONAME) \
	@$(SONAME):$(LIBDIR)/libuffdwp.so \
	$(IMAGE_STATIC):$(LIBDIR)/libuffdwp-image.a \
	$(IMAGE_SHARED):$(LIBDIR)/$(notdir $(IMAGE_SHARED)) \
	@$(notdir $(IMAGE_SHARED)):$(LIBDIR)/$(IMAGE_SONAME) \
	@$(IMAGE_SONAME):$(LIBDIR)/libuffdwp-image.so \
	$(foreach p,$(PC),$(BUILD)/$(p):$(LIBDIR)/pkgconfig/$(p)) \
	$(foreach t,$(TOOLS),$(BUILD)/$(t):$(BINDIR)/$(t)) \
	$(foreach m,$(MAN),$(m):$(MANDIR)/man$(patsubst .%,%,$(suffix $(m)))/$(notdir $(m)))

# ---- Targets ----

.PHONY: all tests demo check check-run check-asan check-tsan check-torture check-long check-kernels check-kernels-run check-fault \
	bench install uninstall clean help FORCE
.DELETE_ON_ERROR:
# Objects of programs are chained through pattern rules; keep them for the next make.
.SECONDARY:

all: $(LIBS) $(TOOL_BINS) $(EXAMPLE_BINS)

tests: all $(UNIT_BINS) $(LIVE_BINS) $(FAULT_BIN) $(TORTURE_BINS) $(FUZZ_BINS) $(FUZZ_SEEDS)

Q = $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' $(1) $(2))
# Parallel unless the user said how.
JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
REMAKE = $(Q)$(MAKE) --no-print-directory $(JOBS)

# The packages that a target's rules ask pkg-config for may come with bootstrap, hence a second make.
demo:
	$(Q)tools/bootstrap
	$(REMAKE) all
	$(Q)tools/demo $(BUILD)

check:
	$(Q)tools/bootstrap
	$(REMAKE) check-run

check-asan:
	$(Q)tools/bootstrap
	$(REMAKE) SAN=address check-run

check-tsan:
	$(Q)tools/bootstrap
	$(REMAKE) SAN=thread check-run

# Emulated machines with other kernels: long, and what it installs is large.
check-kernels:
	$(Q)tools/bootstrap --kernels
	$(REMAKE) check-kernels-run

check-kernels-run: tests
	$(Q)BUILD=$(BUILD) tests/kernels.sh $(KERNELS_ARGS)

# Every system call of the library fails in turn: all of it. `make check` has a short form.
check-fault:
	$(Q)tools/bootstrap
	$(REMAKE) $(FAULT_BIN)
	$(FAULT_BIN) $(FAULT_ARGS)

# Load, then the same with little memory and much swapping.
check-torture:
	$(Q)tools/bootstrap
	$(REMAKE) tests
	$(BUILD)/tests/torture/load $(TORTURE_ARGS)
	$(Q)BUILD=$(BUILD) tests/pressure.sh

# The long forms on this kernel.
check-long: check-fault check-torture
	$(BUILD)/uffd-stress track --mem=all --mode=all --duration=120 --no-progress
	$(BUILD)/uffd-stress snapshot --mem=all --strategy=all --duration=120 --no-progress

check-run: tests
	$(Q)BUILD=$(BUILD) SAN=$(SAN) CC='$(CC)' tests/run.sh

bench: all
	$(BUILD)/uffd-bench fault $(BENCH_ARGS)
	$(BUILD)/uffd-bench track $(TRACK_ARGS)
	$(BUILD)/uffd-bench snapshot $(SNAPSHOT_ARGS)
	$(BUILD)/uffd-bench restore $(RESTORE_ARGS)

install: all $(PC:%=$(BUILD)/%)
	$(Q)set -e; for f in $(INSTALLED); do \
		src=$${f%%:*}; dst="$(DESTDIR)$${f#*:}"; \
		mkdir -p "$${dst%/*}"; \
		case $$src in \
		@*) ln -sfn "$${src#@}" "$$dst" ;; \
		*.a | *.h | *.pc | *.[137]) install -m 644 "$$src" "$$dst" ;; \
		*) install -m 755 "$$src" "$$dst" ;; \
		esac; \
	done
	$(call say,INSTALL,$(DESTDIR)$(PREFIX))

# Below DESTDIR the empty directories go too. Without it only our own: the others are the system's.
uninstall:
	$(Q)for f in $(INSTALLED); do rm -f "$(DESTDIR)$${f#*:}"; done
	$(Q)rmdir "$(DESTDIR)$(INCLUDEDIR)/uffdwp" 2>/dev/null || true
	$(Q)if [ -n "$(DESTDIR)" ]; then cd "$(DESTDIR)" && for f in $(INSTALLED); do \
		d=$${f#*:/}; rmdir -p "$${d%/*}" 2>/dev/null; \
	done; true; fi
	$(call say,REMOVE,$(DESTDIR)$(PREFIX))

clean:
	$(Q)rm -rf build $(filter-out build build/%,$(BUILD))

help:
	@echo 'Targets'
	@echo '  all         library, tools and examples, in build/ (the default)'
	@echo '  demo        install what is missing, build, and show the library at work'
	@echo '  check       install what is missing, build, and run every test'
	@echo '  check-asan  the same tests with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo '  check-tsan  the same tests with ThreadSanitizer'
	@echo '  check-kernels  the tests on kernels from 5.10 to the newest, emulated (KERNELS_ARGS=--short)'
	@echo '  check-torture  load, and load with little memory (TORTURE_ARGS=--short)'
	@echo '  check-fault  every system call of the library fails in turn (FAULT_ARGS=...)'
	@echo '  check-long  these two, and writers against trackers and snapshots for four minutes'
	@echo '  bench       uffd-bench: ratios to what one would write by hand (BENCH_ARGS=..., TRACK_ARGS=..., ...)'
	@echo '  install     to $$(DESTDIR)$$(PREFIX)'
	@echo '  uninstall   what install put there'
	@echo '  clean       remove build/'
	@echo 'Variables'
	@echo '  PREFIX=$(PREFIX)  LIBDIR=$(LIBDIR)  DESTDIR=$(DESTDIR)'
	@echo '  CC=$(CC)  CFLAGS, CPPFLAGS, LDFLAGS: added after our own'
	@echo '  SAN=address|thread  BUILD=$(BUILD)  WERROR=1  V=1: show the commands'

# ---- Rules ----

# Rewritten only when it changes: other flags or another compiler rebuild everything.
BUILT_WITH = $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(BUILT_WITH))' | cmp -s - $@ || \
		printf '%s\n' '$(subst ','\'',$(BUILT_WITH))' > $@

EXTRA =
# Tools, examples and tests/live see the public headers and tools/; unit tests see the inside too.
$(BUILD)/obj/tools/%.o $(BUILD)/obj/tests/%.o: EXTRA = -Itools $(TEST_CPPFLAGS)
$(BUILD)/obj/tests/unit/%.o $(BUILD)/obj/tests/fuzz/%.o: EXTRA = -I. -Ilibuffdwp -Itools $(TEST_CPPFLAGS)

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(EXTRA) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/fault/%.o: %.c $(BUILD)/flags
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) -include tests/fault/site.h -DFAULT_LIBRARY \
		$(if $(filter %/sys.c libuffdwp/image/%,$<),-DFAULT_SYSTEM) \
		$(if $(filter libuffdwp/image/%,$<),-DFAULT_URING) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Removed first: ar would keep the members of deleted files.
$(STATIC): $(call obj,$(LIB_SRC))
$(IMAGE_STATIC): $(call obj,$(IMAGE_SRC))
$(STATIC) $(IMAGE_STATIC):
	$(call say,AR,$@)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

$(SHARED): $(call obj,$(LIB_SRC)) libuffdwp/libuffdwp.map
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) $(call SO_LDFLAGS,$(SONAME)) -o $@ $(filter %.o,$^)

$(IMAGE_SHARED): $(call obj,$(IMAGE_SRC)) libuffdwp/image/libuffdwp-image.map $(BUILD)/libuffdwp.so
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) $(call SO_LDFLAGS,$(IMAGE_SONAME)) -o $@ $(filter %.o %.so,$^) $(URING_LIBS)

$(BUILD)/$(SONAME): $(SHARED)
$(BUILD)/$(IMAGE_SONAME): $(IMAGE_SHARED)
$(BUILD)/$(SONAME) $(BUILD)/$(IMAGE_SONAME):
	$(Q)ln -sfn $(notdir $<) $@

$(BUILD)/%.so: $(BUILD)/%.so.$(MAJOR)
	$(Q)ln -sfn $(notdir $<) $@

# Written anew each time, since PREFIX and LIBDIR may differ from the last make.
$(BUILD)/%.pc: pkgconfig/%.pc.in FORCE
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' $< > $@

link = $(Q)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^) $(1)

define tool_rule
$(BUILD)/$(1): $(call obj,$(wildcard tools/$(1)/*.c) $(COMMON_SRC)) $(IMAGE_STATIC) $(STATIC)
	$$(call say,LD,$$@)
	$$(call link,$$(TOOL_LIBS) $$(URING_LIBS) $$(LIBS_$(1)))
endef
LIBS_uffd-bench = $(SIGSEGV_LIBS)
$(call obj,tools/uffd-bench/tracker-signal.c): ALL_CPPFLAGS += $(if $(SIGSEGV_LIBS),-DHAVE_SIGSEGV)
$(foreach t,$(TOOLS),$(eval $(call tool_rule,$(t))))

$(EXAMPLE_BINS): $(BUILD)/%: $(BUILD)/obj/%.o $(IMAGE_STATIC) $(STATIC)
	$(call say,LD,$@)
	$(call link,$(URING_LIBS) $(if $(filter %/sqlite_backup,$@),$(SQLITE_LIBS)))

# What stands before functions of the library, in programs that take something away or hold something up.
wrap = $(addprefix -Wl$(comma)--wrap=uffdwp__sys_,$(1))
$(BUILD)/tests/live/fallback: WRAPPED = $(call wrap,pagemap_read pagemap_scan writeprotect)
$(BUILD)/tests/live/snapshot_end: WRAPPED = -Wl,--wrap=uffdwp__layers_event
$(UNIT_BINS) $(LIVE_BINS) $(TORTURE_BINS): $(BUILD)/%: $(BUILD)/obj/%.o \
		$(call obj,$(TEST_COMMON_SRC) $(COMMON_SRC)) $(IMAGE_STATIC) $(STATIC)
	$(call say,LD,$@)
	$(call link,$(WRAPPED) $(TEST_LIBS) $(URING_LIBS))

# The fuzzer's targets, each with a main() that runs it on given inputs; tests/fuzz.sh wraps the same.
$(BUILD)/tests/fuzz/options: WRAPPED = $(call wrap,alloc alloc_zeros alloc_staging free)
$(BUILD)/tests/fuzz/events: WRAPPED = $(call wrap,read)
$(FUZZ_BINS): $(call obj,tests/fuzz/replay.c)
$(FUZZ_BINS) $(FUZZ_SEEDS): $(BUILD)/%: $(BUILD)/obj/%.o $(call obj,tests/common/image.c) $(IMAGE_STATIC) $(STATIC)
	$(call say,LD,$@)
	$(call link,$(WRAPPED) $(URING_LIBS))

$(FAULT_BIN): $(call obj,$(FAULT_SRC) $(TEST_COMMON_SRC) $(COMMON_SRC)) $(FAULT_LIB)
	$(call say,LD,$@)
	$(call link,$(TEST_LIBS) $(URING_LIBS))

-include $(patsubst %.o,%.d,$(FAULT_LIB) $(call obj,$(LIB_SRC) $(IMAGE_SRC) $(COMMON_SRC) $(wildcard tools/*/*.c) \
	$(EXAMPLE_SRC) $(UNIT_SRC) $(LIVE_SRC) $(FAULT_SRC) $(TORTURE_SRC) \
	$(TEST_COMMON_SRC) $(wildcard tests/fuzz/*.c)))
