/* SPDX-License-Identifier: MIT */
/*
 * A live backup of an in-memory SQLite database, without SQLite's help. The database lies in a region. A
 * thread moves money between accounts, one transaction after the other, and is paused between two of
 * them, for the seal alone. The file that comes out is a database: it has to pass SQLite's own check, and to
 * hold exactly what was committed by that instant, which follows from how many transactions that were.
 */
#include <stdio.h>

#if __has_include(<sqlite3.h>)
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uffdwp/snapshot.h>

#define ACCOUNTS 200000
#define BEGINNING 1000 /* on each account */
#define WARM 2000      /* transfers before the backup */
#define ROOM (64 << 20)

struct transfer {
	int from, to, amount;
};

static sqlite3 *db;
static char *mem; /* in which SQLite keeps it */
static atomic_llong transfers;
/* A transaction is a reader; who waits for the boundary between two goes first. */
static pthread_rwlock_t boundary = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static sem_t warm;
static atomic_int stop;
static char reason[256];

#define WHY .reason = reason, .reason_size = sizeof(reason)

/* Ends the program unless err is 0: by 77 if the system does not permit it, or can not. */
static void check(const char *what, int err)
{
	if (!err)
		return;
	fprintf(stderr, "sqlite_backup: %s: %s %s\n", what, strerror(-err), reason);
	exit(err == -EPERM || err == -EACCES || err == -ENOSYS || err == -EOPNOTSUPP ? 77 : 1);
}

static void check_sql(sqlite3 *on, int rc)
{
	if (rc == SQLITE_OK)
		return;
	fprintf(stderr, "sqlite_backup: SQLite: %s\n", on ? sqlite3_errmsg(on) : "no memory");
	exit(1);
}

/* Runs a format's statements; row() gets the rows that they give. */
static void sql(sqlite3 *on, int (*row)(void *, int, char **, char **), const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	text = sqlite3_vmprintf(format, args);
	va_end(args);
	check_sql(on, sqlite3_exec(on, text, row, NULL, NULL));
	sqlite3_free(text);
}

/* The n-th one, counted from 1. */
static struct transfer transfer(long long n)
{
	unsigned long long x = (unsigned long long)n * 0x9e3779b97f4a7c15;

	return (struct transfer){ (int)((x >> 40) % ACCOUNTS), (int)((x >> 20) % ACCOUNTS),
				  (int)(n % 100) };
}

static void create(void)
{
	check_sql(db, sqlite3_open(":memory:", &db));
	/*
	 * Not RESIZEABLE: SQLite would move it by its own realloc(). Not FREEONCLOSE: it is not its
	 * malloc()'s. So there has to be room from the start for what the database may grow to.
	 */
	check_sql(db, sqlite3_deserialize(db, "main", (unsigned char *)mem, 0, ROOM, 0));
	sql(db, NULL,
	    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER);"
	    "CREATE TABLE log (n INTEGER PRIMARY KEY, source, target, amount);"
	    "WITH RECURSIVE c(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM c WHERE i < %d)"
	    " INSERT INTO account SELECT i, %d FROM c",
	    ACCOUNTS - 1, BEGINNING);
}

static void *writer(void *arg)
{
	(void)arg;
	for (long long n = 1; !atomic_load(&stop); n++) {
		struct transfer t = transfer(n);

		pthread_rwlock_rdlock(&boundary);
		sql(db, NULL,
		    "BEGIN; UPDATE account SET balance = balance - %d WHERE id = %d;"
		    "UPDATE account SET balance = balance + %d WHERE id = %d;"
		    "INSERT INTO log VALUES (%lld, %d, %d, %d); COMMIT",
		    t.amount, t.from, t.amount, t.to, n, t.from, t.to, t.amount);
		transfers = n;
		pthread_rwlock_unlock(&boundary);
		if (n == WARM)
			sem_post(&warm);
	}
	return NULL;
}

/* The database as it is between two transactions goes to fd. Returns how many there were. */
static long long backup(int fd, struct uffdwp_snapshot_result *res)
{
	struct uffdwp_opts ho = { .sz = sizeof(ho), .faults = UFFDWP_FAULTS_ANY, WHY };
	struct uffdwp_region_opts ro = {
		.sz = sizeof(ro), .addr = (uintptr_t)mem, .len = ROOM, .mode = UFFDWP_MODE_WP, WHY
	};
	struct uffdwp_sink sink;
	/* Slow enough not to disturb anybody, so that there is a lot to see. */
	struct uffdwp_snapshot_opts so = { .sz = sizeof(so), .sink = &sink, .rate = 16 << 20, WHY };
	struct uffdwp_snapshot *s;
	struct uffdwp_region *r;
	struct uffdwp *h;
	sqlite3_int64 size;
	long long so_far;

	check("uffdwp_open", uffdwp_open(&h, &ho));
	check("uffdwp_region_add", uffdwp_region_add(h, &ro, &r));
	check("uffdwp_sink_file", uffdwp_sink_file(&sink, fd));
	check("uffdwp_snapshot_new", uffdwp_snapshot_new(&s, &r, 1, &so));
	check("uffdwp_snapshot_arm", uffdwp_snapshot_arm(s));
	pthread_rwlock_wrlock(&boundary);
	check("uffdwp_snapshot_seal", uffdwp_snapshot_seal(s));
	so_far = transfers;
	sqlite3_serialize(db, "main", &size,
			  SQLITE_SERIALIZE_NOCOPY); /* how much of the room it is */
	pthread_rwlock_unlock(&boundary);
	check("uffdwp_snapshot_wait", uffdwp_snapshot_wait(s, res));
	check("uffdwp_snapshot_free", uffdwp_snapshot_free(s));
	check("uffdwp_close", uffdwp_close(h));
	if (res->verdict != UFFDWP_SNAPSHOT_COMPLETE)
		check("the backup is not complete", res->error ? res->error : -ECANCELED);
	check("ftruncate", ftruncate(fd, size) ? -errno : 0);
	return so_far;
}

/* ---- What is in the file, against what so many transfers make ---- */

static long long committed, wrong, rows;
static int balance[ACCOUNTS];
static char expected[64];

static int check_text(void *none, int n, char **value, char **name)
{
	(void)none, (void)n;
	printf("%s: %s\n", name[0], value[0]);
	wrong += strcmp(value[0], expected) != 0;
	return 0;
}

static int check_account(void *none, int n, char **value, char **name)
{
	(void)none, (void)n, (void)name;
	wrong += rows >= ACCOUNTS || atoi(value[0]) != rows || atoi(value[1]) != balance[rows];
	rows++;
	return 0;
}

static void verify(const char *path)
{
	sqlite3 *file;

	for (int i = 0; i < ACCOUNTS; i++)
		balance[i] = BEGINNING;
	for (long long n = 1; n <= committed; n++) {
		struct transfer t = transfer(n);

		balance[t.from] -= t.amount;
		balance[t.to] += t.amount;
	}
	check_sql(NULL, sqlite3_open_v2(path, &file, SQLITE_OPEN_READONLY, NULL));
	strcpy(expected, "ok");
	sql(file, check_text, "PRAGMA integrity_check");
	snprintf(expected, sizeof(expected), "%lld, the last is %lld", committed, committed);
	sql(file, check_text,
	    "SELECT count(*) || ', the last is ' || max(n) AS transfers FROM log");
	sql(file, check_account, "SELECT id, balance FROM account ORDER BY id");
	wrong += rows != ACCOUNTS;
	sqlite3_close(file);
}

int main(int argc, char **argv)
{
	struct uffdwp_snapshot_result res = { .sz = sizeof(res) };
	char path[] = "/tmp/sqlite_backup.XXXXXX";
	const char *to = argc > 1 ? argv[1] : path;
	int fd = argc > 1 ? open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : mkstemp(path);
	pthread_t thread;
	long long during;

	check(to, fd < 0 ? -errno : 0);
	mem = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check("mmap", mem == MAP_FAILED ? -errno : 0);
	create();
	sem_init(&warm, 0, 0);
	check("pthread_create", -pthread_create(&thread, NULL, writer, NULL));
	sem_wait(&warm);
	committed = backup(fd, &res);
	during = transfers - committed;
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	verify(to);
	printf("paused for %.0f us; %lld more transfers until the backup was complete, for which %llu pages\n"
	       "were saved just before they changed: %s\n",
	       (double)res.pause_ns / 1e3, during, (unsigned long long)res.by_fault / 4096,
	       wrong ? "FAIL" : "PASS");
	if (argc == 1)
		unlink(path);
	sqlite3_close(db);
	return wrong != 0;
}

#else

int main(void)
{
	puts("skipped: built without libsqlite3");
	return 77;
}

#endif
