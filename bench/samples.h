/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a benchmark has measured, in memory that its children share, and at the
 * end a line of JSON for each case and peer.
 *
 * MIGR_BENCH_RUNS: how often each is measured; MIGR_BENCH_SUFFIX: what to append
 * to the names of cases.
 */
#ifndef MIGR_BENCH_SAMPLES_H
#define MIGR_BENCH_SAMPLES_H

#include "migr_test.h"

#define OURS	"migr"
#define RUNS	5

struct sample {
	char test[48];
	char who[24];
	char unit[16];
	bool higher_is_better;
	double value;
};

static struct samples {
	unsigned int nr;
	struct sample s[4096];
} *samples;

/* Before the children; returns how often to measure. */
static inline unsigned int samples_open(void)
{
	const char *runs = getenv("MIGR_BENCH_RUNS");

	setvbuf(stdout, NULL, _IOLBF, 0);
	samples = shared_alloc(sizeof(*samples));
	test_skip_reason = shared_alloc(TEST_REASON_MAX);
	return runs ? (unsigned int)atoi(runs) : RUNS;
}

static inline struct sample *sample(const char *test, const char *who, const char *unit,
				    double value)
{
	struct sample *s = &samples->s[samples->nr++];

	CHECK(samples->nr <= ARRAY_SIZE(samples->s), "too many samples");
	snprintf(s->test, sizeof(s->test), "%s", test);
	snprintf(s->who, sizeof(s->who), "%s", who);
	snprintf(s->unit, sizeof(s->unit), "%s", unit);
	s->value = value;
	printf("%s %s: %.1f %s\n", test, who, value, unit);
	return s;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static inline double median(const char *test, const char *who, unsigned int *nr)
{
	double values[64];
	unsigned int i;

	for (*nr = 0, i = 0; i < samples->nr; i++) {
		struct sample *s = &samples->s[i];

		if (strcmp(s->test, test) || strcmp(s->who, who))
			continue;
		CHECK(*nr < ARRAY_SIZE(values), "too many runs of %s", test);
		values[(*nr)++] = s->value;
	}
	qsort(values, *nr, sizeof(*values), compare_doubles);
	return *nr % 2 ? values[*nr / 2] : (values[*nr / 2 - 1] + values[*nr / 2]) / 2;
}

static inline void samples_report(const char *path, const char *suite)
{
	const char *suffix = getenv("MIGR_BENCH_SUFFIX") ?: "";
	FILE *file = fopen(path, "w");
	unsigned int i, j;

	CHECK(file, "%s: %s", path, strerror(errno));
	for (i = 0; i < samples->nr; i++) {
		struct sample *s = &samples->s[i];
		double ours, theirs;
		unsigned int runs, runs_ours;

		j = 0;
		while (strcmp(s->test, samples->s[j].test) || strcmp(s->who, samples->s[j].who))
			j++;
		/* Each peer of a test once. */
		if (j < i || !strcmp(s->who, OURS))
			continue;
		ours = median(s->test, OURS, &runs_ours);
		theirs = median(s->test, s->who, &runs);
		fprintf(file, "{\"suite\": \"%s\", \"case\": \"%s%s\", \"peer\": \"%s\", ",
			suite, s->test, suffix, s->who);
		fprintf(file, "\"unit\": \"%s\", \"ours\": %.6g, \"theirs\": %.6g, \"ratio\": %.4g, ",
			s->unit, ours, theirs, ours / theirs);
		fprintf(file, "\"runs\": %u, \"lower_is_better\": %s}\n",
			runs < runs_ours ? runs : runs_ours,
			s->higher_is_better ? "false" : "true");
	}
	CHECK(!fclose(file), "%s: %s", path, strerror(errno));
}

#endif /* MIGR_BENCH_SAMPLES_H */
