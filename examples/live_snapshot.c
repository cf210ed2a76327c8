/* SPDX-License-Identifier: MIT */
/*
 * A live snapshot: a key-value store is saved to an image file, as it was at one instant, while its
 * threads go on putting records into it. They are paused for that instant only. Then a fresh process
 * restores the image and compares every byte with what it has to be, which it works out from the number
 * of puts that each thread had made; see kv.h. --compare-fork does the same by fork(2) and a write in
 * the child, and shows both side by side.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uffdwp/image.h>

#include "kv_fork.h"

/*
 * A region of its own in the image: `gdb live_snapshot IMAGE`, then `print about`. It begins as zeros, so
 * that it is anonymous memory, and not a mapping of the program's file.
 */
static _Alignas(4096) struct {
	char text[64];
	uint64_t nrecords, nthreads;
	char rest[4096 - 80];
} about;

static const char title[] = "a key-value store";
static struct kv kv = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
static char path[4096], raw[4096 + 8], temporary;
static char reason[256];
static uint32_t strategy = UFFDWP_SNAPSHOT_COW;

#define WHY .reason = reason, .reason_size = sizeof(reason)

/* Ends the program unless err is 0: by 77 if the system does not permit it, or can not. */
static void check(const char *what, int err)
{
	if (!err)
		return;
	fprintf(stderr, "live_snapshot: %s: %s %s\n", what, strerror(-err), reason);
	exit(err == -EPERM || err == -EACCES || err == -ENOSYS || err == -EOPNOTSUPP ? 77 : 1);
}

static struct uffdwp *open_handle(uint64_t features)
{
	struct uffdwp_opts o = {
		.sz = sizeof(o), .required = features, .faults = UFFDWP_FAULTS_ANY, WHY
	};
	struct uffdwp *h;

	check("uffdwp_open", uffdwp_open(&h, &o));
	return h;
}

static struct uffdwp_region *add(struct uffdwp *h, void *mem, size_t len)
{
	struct uffdwp_region_opts o = {
		.sz = sizeof(o), .addr = (uintptr_t)mem, .len = len, .mode = UFFDWP_MODE_WP, WHY
	};
	struct uffdwp_region *r;

	check("uffdwp_region_add", uffdwp_region_add(h, &o, &r));
	return r;
}

/* Here it is. */
static void take_snapshot(struct kv_run *run)
{
	int precopy = strategy == UFFDWP_SNAPSHOT_PRECOPY;
	struct uffdwp *h = open_handle(precopy ? UFFDWP_FEATURE_WP_ASYNC : 0);
	struct uffdwp_region *regions[] = { add(h, &about, sizeof(about)),
					    add(h, kv.records, kv_bytes(&kv)) };
	struct uffdwp_sink sink;
	struct uffdwp_snapshot_opts o = {
		.sz = sizeof(o), .strategy = strategy, .sink = &sink, WHY
	};
	struct uffdwp_image_opts io = { .sz = sizeof(io), WHY };
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	struct uffdwp_snapshot *s;

	check("uffdwp_image_sink", uffdwp_image_sink(&sink, path, &io));
	check("uffdwp_snapshot_new", uffdwp_snapshot_new(&s, regions, 2, &o));
	check("uffdwp_snapshot_arm", uffdwp_snapshot_arm(s)); /* the threads run */
	kv_pause(&kv);
	check("uffdwp_snapshot_seal",
	      uffdwp_snapshot_seal(s)); /* the instant that the image shows */
	run->at = kv_instant(&kv);
	kv_resume(&kv);
	check("uffdwp_snapshot_wait", uffdwp_snapshot_wait(s, &res)); /* the threads run */
	check("uffdwp_snapshot_free", uffdwp_snapshot_free(s));
	check("uffdwp_close", uffdwp_close(h));
	if (res.verdict != UFFDWP_SNAPSHOT_COMPLETE)
		check("the snapshot is not complete", res.error ? res.error : -ECANCELED);
	run->title = precopy ? "snapshot, precopy" : "snapshot, cow";
	run->pause_us = (double)res.pause_ns / 1e3;
	run->wait_us = (double)res.waits.max / 1e3;
}

/* The same without the library. */
static void take_fork(struct kv_run *run)
{
	check("fork and write", kv_fork(&kv, raw, run));
}

static void *map(size_t len, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	check("mmap", mem == MAP_FAILED ? -errno : 0);
	return mem;
}

/* In a fresh process, which is told the instant on its standard input: 0 if the image shows it. */
static int verify(int is_image)
{
	struct uffdwp_image_open_opts io = { .sz = sizeof(io), WHY };
	struct uffdwp_restore_opts o = { .sz = sizeof(o), WHY };
	struct kv_instant at;
	struct uffdwp_restore *rs = NULL;
	struct uffdwp_image *img = NULL;
	uint64_t addrs[2], begin = kv_now(), wrong;
	size_t len;

	check("the instant", read(0, &at, sizeof(at)) == sizeof(at) ? 0 : -EIO);
	len = at.nrecords * sizeof(struct kv_record);
	if (!is_image)
		return kv_wrong(&at, map(len, open(path, O_RDONLY | O_CLOEXEC))) != 0;
	o.addrs = addrs;
	addrs[0] = (uintptr_t)map(sizeof(about), -1);
	addrs[1] = (uintptr_t)map(len, -1);
	check("uffdwp_image_open", uffdwp_image_open(&img, path, &io));
	o.image = img;
	o.handle = open_handle(0);
	check("uffdwp_restore_start", uffdwp_restore_start(&rs, &o));
	/* From here on the memory can be used: what is not there yet comes when it is touched. */
	wrong = memcmp((void *)addrs[0], title, sizeof(title)) != 0;
	printf("restored: memory in use after %.1f ms in a fresh process\n",
	       (double)(kv_now() - begin) / 1e6);
	wrong += kv_wrong(&at, (struct kv_record *)addrs[1]);
	check("uffdwp_restore_free", uffdwp_restore_free(rs, UFFDWP_RESTORE_REMOVE));
	uffdwp_image_close(img);
	return uffdwp_close(o.handle) || wrong;
}

/* Takes it and has it verified: 0, or 1 if it is wrong. */
static int run(void (*take)(struct kv_run *run), struct kv_run *run)
{
	const char *how = take == take_fork ? "--verify=raw" : "--verify=image";
	const char *file = take == take_fork ? raw : path;
	int told[2], status = 1;
	struct stat st;
	pid_t pid;

	kv_play(&kv, run, take);
	check("stat", stat(file, &st) ? -errno : 0);
	run->image_mib = (double)st.st_size / 1048576;
	check("pipe", pipe(told) || write(told[1], &run->at, sizeof(run->at)) < 0 ? -errno : 0);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		dup2(told[0], 0);
		execl("/proc/self/exe", "live_snapshot", how, "--image", file, (char *)NULL);
		_exit(99);
	}
	check("waitpid", waitpid(pid, &status, 0) == pid ? 0 : -errno);
	close(told[0]);
	close(told[1]);
	printf("%s: every byte as it was at that instant: %s\n", run->title, status ? "NO" : "yes");
	return status != 0;
}

static void clean_up(void)
{
	unlink(raw);
	if (temporary)
		unlink(path);
}

static int play(int compare)
{
	static struct kv_run runs[2];
	int wrong;

	snprintf(raw, sizeof(raw), "%s.fork", path);
	atexit(clean_up);
	memcpy(about.text, title, sizeof(title));
	about.nrecords = kv.nrecords;
	about.nthreads = kv.nthreads;
	kv.records = map(kv_bytes(&kv), -1);
	for (uint64_t key = 0; key < kv.nrecords; key++)
		kv_fill(&kv.records[key], key, 0);
	printf("a store of %llu records in %zu MiB; %llu threads put records\n",
	       (unsigned long long)kv.nrecords, kv_bytes(&kv) >> 20,
	       (unsigned long long)kv.nthreads);
	wrong = run(take_snapshot, &runs[0]);
	if (compare)
		wrong |= run(take_fork, &runs[1]);
	kv_print(runs, compare ? 2 : 1);
	return wrong;
}

static int usage(FILE *out, int code)
{
	fprintf(out,
		"usage: live_snapshot [--size=MIB] [--threads=N] [--strategy=cow|precopy]\n"
		"                     [--compare-fork] [--image=FILE]\n"
		"Saves a store of MIB (128) mebibytes while N (2) threads write to it, into FILE, which is\n"
		"kept, or into a temporary file in $TMPDIR or /var/tmp; restores it in another process.\n");
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size", 1, NULL, 's' },     { "threads", 1, NULL, 't' },
		{ "strategy", 1, NULL, 'g' }, { "compare-fork", 0, NULL, 'c' },
		{ "image", 1, NULL, 'i' },    { "verify", 1, NULL, 'v' },
		{ "help", 0, NULL, 'h' },     { 0 }
	};
	const char *dir = getenv("TMPDIR"), *how = NULL;
	unsigned long size = 128;
	int opt, compare = 0;

	kv.nthreads = 2;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 's')
			size = strtoul(optarg, NULL, 10);
		else if (opt == 't')
			kv.nthreads = strtoul(optarg, NULL, 10);
		else if (opt == 'g' && !strcmp(optarg, "precopy"))
			strategy = UFFDWP_SNAPSHOT_PRECOPY;
		else if (opt == 'c')
			compare = 1;
		else if (opt == 'i')
			snprintf(path, sizeof(path), "%s", optarg);
		else if (opt == 'v')
			how = optarg;
		else if (opt != 'g' || strcmp(optarg, "cow"))
			return opt == 'h' ? usage(stdout, 0) : usage(stderr, 2);
	}
	if (optind < argc || size < 16 || size > 1 << 20 || kv.nthreads - 1 >= KV_THREADS_MAX ||
	    (how && !path[0]))
		return usage(stderr, 2);
	if (how)
		return verify(!strcmp(how, "image"));
	kv.nrecords = (size << 20) / sizeof(*kv.records);
	temporary = !path[0];
	if (temporary)
		snprintf(path, sizeof(path), "%s/live_snapshot.%d", dir ? dir : "/var/tmp",
			 getpid());
	return play(compare);
}
