/* SPDX-License-Identifier: MIT */
/* Pages that tell what they must hold, see page.h. */
#include "page.h"

/* Different for every page and visit, so that neither an old nor another page passes for it. */
PAGE_UNSEEN static uint64_t word_of(uint64_t nr, uint64_t count)
{
	uint64_t x = (nr << 32 ^ count) * UINT64_C(0x9e3779b97f4a7c15);

	return x ^ x >> 29;
}

void page_fill(struct page *p, size_t size, uint64_t nr)
{
	size_t n = page_words(size), i;

	pthread_mutex_init(&p->mutex, NULL);
	p->nr = nr;
	p->count = n - 1;
	for (i = 0; i < n; i++)
		p->word[i] = word_of(nr, i);
}

uint64_t page_glance(const struct page *p)
{
	return __atomic_load_n(&p->count, __ATOMIC_RELAXED);
}

PAGE_UNSEEN void page_touch(struct page *p)
{
	__atomic_fetch_add(&p->count, 0, __ATOMIC_SEQ_CST);
}

bool page_visit(struct page *p, size_t size, uint64_t nr, uint64_t *shadow)
{
	uint64_t count;
	bool good;

	pthread_mutex_lock(&p->mutex);
	count = p->count;
	good = count == *shadow && p->nr == nr;
	/* From the shadow, so that one lost write does not count as many. */
	count = ++*shadow;
	p->word[count % page_words(size)] = word_of(nr, count);
	__atomic_store_n(&p->count, count, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&p->mutex);
	return good;
}

/* Word i was last written by the latest visit c <= count with c mod n = i. */
PAGE_UNSEEN bool page_check(const struct page *p, size_t size, uint64_t nr, uint64_t count,
			    size_t *bad)
{
	size_t n = page_words(size), i, last = count % n;
	uint64_t base = count - last;

	*bad = offsetof(struct page, nr);
	if (p->nr != nr)
		return false;
	*bad = offsetof(struct page, count);
	if (p->count != count)
		return false;
	for (i = 0; i < n; i++) {
		*bad = offsetof(struct page, word) + i * sizeof(p->word[0]);
		if (p->word[i] != word_of(nr, i <= last ? base + i : base + i - n))
			return false;
	}
	return true;
}
