/* SPDX-License-Identifier: MIT */
/* uffdwp_open(): each argument and each field of its options, one wrong at a time. */
#include "args.h"

struct bad {
	const char *name, *value; /* as the reason should have them */
	struct uffdwp_opts o;
	int err;
};

static int one_cpu[] = { 0 }, negative_cpu[] = { 0, -3 }, huge_cpu[] = { 100000 };

static const struct bad table[] = {
	{ "source", "3", { .source = UFFDWP_SOURCE_ADOPTED }, -EINVAL },
	{ "source", "4", { .source = 4 }, -EINVAL },
	{ "source", "4294967295", { .source = UINT32_MAX }, -EINVAL },
	{ "faults", "3", { .faults = 3 }, -EINVAL },
	{ "faults", "4294967295", { .faults = UINT32_MAX }, -EINVAL },
	{ "serve", "3", { .serve = 3 }, -EINVAL },
	{ "serve", "4294967295", { .serve = UINT32_MAX }, -EINVAL },
	{ "placement", "4", { .placement = 4 }, -EINVAL },
	{ "placement", "4294967295", { .placement = UINT32_MAX }, -EINVAL },
	{ "threads", "65", { .threads = UFFDWP_THREADS_MAX + 1 }, -EINVAL },
	{ "threads", "4294967295", { .threads = UINT32_MAX }, -EINVAL },
	{ "batch", "65", { .batch = UFFDWP_BATCH_MAX + 1 }, -EINVAL },
	{ "batch", "4294967295", { .batch = UINT32_MAX }, -EINVAL },
	{ "blocking", "2", { .serve = UFFDWP_SERVE_CALLER, .blocking = 2 }, -EINVAL },
	{ "blocking", "1", { .serve = UFFDWP_SERVE_THREADS, .blocking = 1 }, -EINVAL },
	{ "blocking", "1", { .serve = UFFDWP_SERVE_SIGBUS, .blocking = 1 }, -EINVAL },
	{ "blocking",
	  "1",
	  { .serve = UFFDWP_SERVE_CALLER, .blocking = 1, .required = UFFDWP_FEATURE_EVENT_REMOVE },
	  -EINVAL },
	{ "cpus", "", { .placement = UFFDWP_PLACE_PIN }, -EINVAL },
	{ "cpus", "", { .placement = UFFDWP_PLACE_PIN, .cpus = one_cpu }, -EINVAL },
	{ "cpus", "", { .placement = UFFDWP_PLACE_PIN, .ncpus = 1 }, -EINVAL },
	{ "cpus[1]",
	  "-3",
	  { .placement = UFFDWP_PLACE_PIN, .cpus = negative_cpu, .ncpus = 2 },
	  -EINVAL },
	{ "cpus[0]",
	  "100000",
	  { .placement = UFFDWP_PLACE_PIN, .cpus = huge_cpu, .ncpus = 1 },
	  -EINVAL },
	{ "required", "0x80", { .required = UFFDWP_FEATURE_SIGBUS }, -EINVAL },
	{ "required",
	  "0x8",
	  { .serve = UFFDWP_SERVE_SIGBUS, .required = UFFDWP_FEATURE_EVENT_REMOVE },
	  -EINVAL },
};

START_TEST(out_of_range)
{
	const struct bad *b = &table[_i];
	struct uffdwp_opts o = b->o;
	char reason[256] = "";
	struct uffdwp *h = (void *)&o;

	o.sz = sizeof(o);
	o.reason = reason;
	o.reason_size = sizeof(reason);
	ck_assert_int_eq(uffdwp_open(&h, &o), b->err);
	ck_assert_ptr_null(h);
	args_reason(reason, b->name, b->value);
	/* The same without a place for the reason. */
	o.reason = NULL;
	h = (void *)&o;
	ck_assert_int_eq(uffdwp_open(&h, &o), b->err);
	ck_assert_ptr_null(h);
}
END_TEST

START_TEST(null_out)
{
	struct uffdwp_opts o = { .sz = sizeof(o) };

	ck_assert_int_eq(uffdwp_open(NULL, NULL), -EINVAL);
	ck_assert_int_eq(uffdwp_open(NULL, &o), -EINVAL);
}
END_TEST

START_TEST(size_too_small)
{
	const size_t first = offsetof(struct uffdwp_opts, reason_size) + sizeof(size_t);
	const size_t sizes[] = { 0, 1, sizeof(size_t), offsetof(struct uffdwp_opts, serve),
				 first - 1 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct uffdwp_opts o = { .sz = sizes[i] };
		struct uffdwp *h = (void *)&o;

		ck_assert_int_eq(uffdwp_open(&h, &o), -EINVAL);
		ck_assert_ptr_null(h);
	}
}
END_TEST

START_TEST(size_too_large)
{
	struct uffdwp_opts o = { .sz = sizeof(o) };
	struct uffdwp_opts *longer = args_longer(&o, sizeof(o), 1);
	struct uffdwp *h = (void *)&o;

	ck_assert_int_eq(uffdwp_open(&h, longer), -E2BIG);
	ck_assert_ptr_null(h);
	free(longer);
	longer = args_longer(&o, sizeof(o), 0);
	ck_assert_int_eq(uffdwp_open(&h, longer), 0);
	ck_assert_ptr_nonnull(h);
	ck_assert_int_eq(uffdwp_close(h), 0);
	free(longer);
}
END_TEST

/* Features that the kernel, or the masked kernel, lacks. */
START_TEST(features)
{
	static const struct {
		uint64_t required, masked;
		const char *word;
	} f[] = {
		{ UINT64_C(1) << 60, 0, "" },
		{ UFFDWP_FEATURE_MOVE, UFFDWP_FEATURE_MOVE, "MOVE" },
		{ UFFDWP_FEATURE_WP_UNPOPULATED, UFFDWP_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED" },
		{ UFFDWP_FEATURE_POISON | UFFDWP_FEATURE_THREAD_ID, UFFDWP_FEATURE_POISON,
		  "POISON" },
		{ 0, UFFDWP_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP" },
		{ 0, UINT64_MAX, "PAGEFAULT_FLAG_WP" },
	};

	for (size_t i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		char reason[256] = "";
		struct uffdwp_opts o = { .sz = sizeof(o),
					 .required = f[i].required,
					 .masked = f[i].masked,
					 .reason = reason,
					 .reason_size = sizeof(reason) };
		struct uffdwp *h = (void *)&o;

		ck_assert_int_eq(uffdwp_open(&h, &o), -EOPNOTSUPP);
		ck_assert_ptr_null(h);
		ck_assert_msg(reason[0] && strstr(reason, f[i].word), "reason: %s", reason);
	}
}
END_TEST

START_TEST(features_optional)
{
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .optional = UINT64_C(1) << 60 | UFFDWP_FEATURE_EVENT_UNMAP };
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp *h;

	ck_assert_int_eq(uffdwp_open(&h, &o), 0);
	ck_assert_int_eq(uffdwp_info(h, &info), 0);
	ck_assert(info.features & UFFDWP_FEATURE_EVENT_UNMAP);
	ck_assert(!(info.features & UINT64_C(1) << 60));
	ck_assert(!(info.features & UFFDWP_FEATURE_EVENT_REMOVE));
	ck_assert_int_eq(uffdwp_close(h), 0);
}
END_TEST

START_TEST(follow_without_thread_id)
{
	char reason[256] = "";
	struct uffdwp_opts o = { .sz = sizeof(o),
				 .masked = UFFDWP_FEATURE_THREAD_ID,
				 .placement = UFFDWP_PLACE_FOLLOW,
				 .reason = reason,
				 .reason_size = sizeof(reason) };
	struct uffdwp *h = (void *)&o;

	ck_assert_int_eq(uffdwp_open(&h, &o), -EOPNOTSUPP);
	ck_assert_ptr_null(h);
	ck_assert_msg(strstr(reason, "THREAD_ID"), "reason: %s", reason);
}
END_TEST

/* A reason is never longer than its buffer, always ended, and may have no buffer at all. */
START_TEST(reason_size)
{
	char reason[64];

	for (size_t size = 0; size < sizeof(reason); size++) {
		struct uffdwp_opts o = {
			.sz = sizeof(o), .serve = 99, .reason = reason, .reason_size = size
		};
		struct uffdwp *h;

		memset(reason, '#', sizeof(reason));
		ck_assert_int_eq(uffdwp_open(&h, &o), -EINVAL);
		for (size_t i = size; i < sizeof(reason); i++)
			ck_assert_int_eq(reason[i], '#');
		ck_assert(!size || memchr(reason, '\0', size));
	}
}
END_TEST

START_TEST(defaults)
{
	struct uffdwp_opts o = { .sz = sizeof(o) };
	struct uffdwp_info info = { .sz = sizeof(info) };
	struct uffdwp *h;

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(uffdwp_open(&h, i ? &o : NULL), 0);
		ck_assert_int_eq(uffdwp_info(h, &info), 0);
		ck_assert_uint_eq(info.serve, UFFDWP_SERVE_THREADS);
		ck_assert_uint_eq(info.faults, UFFDWP_FAULTS_KERNEL);
		ck_assert_uint_eq(info.batch, 16);
		ck_assert(info.threads >= 1 && info.threads <= 8);
		ck_assert_uint_eq(info.regions, 0);
		ck_assert_int_eq(info.error, 0);
		ck_assert_int_eq(uffdwp_close(h), 0);
	}
	ck_assert_int_eq(uffdwp_close(NULL), 0);
}
END_TEST

START_TEST(version)
{
	char want[32];

	snprintf(want, sizeof(want), "%d.%d.%d", UFFDWP_VERSION_MAJOR, UFFDWP_VERSION_MINOR,
		 UFFDWP_VERSION_PATCH);
	ck_assert_str_eq(uffdwp_version(), want);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { null_out,    size_too_small,    size_too_large,
				       features,    features_optional, follow_without_thread_id,
				       reason_size, defaults,	       version };

	return args_run("args_open", tests, sizeof(tests) / sizeof(tests[0]), out_of_range,
			sizeof(table) / sizeof(table[0]));
}
