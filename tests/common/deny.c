/* SPDX-License-Identifier: MIT */
/* A seccomp(2) filter, see deny.h. */
#include "deny.h"

#include <seccomp.h>

#include "live.h"

void deny(int nr, int arg, uint32_t value, int err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	struct scmp_arg_cmp cmp = { .arg = (unsigned int)(arg < 0 ? 0 : arg),
				    .op = SCMP_CMP_MASKED_EQ,
				    .datum_a = UINT32_MAX,
				    .datum_b = value };

	CHECK(ctx);
	CHECK_EQ(seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO((uint32_t)err), nr, arg >= 0, &cmp), 0);
	CHECK_EQ(seccomp_load(ctx), 0);
	seccomp_release(ctx);
}
