/* SPDX-License-Identifier: MIT */
/* The scenarios of each file, in tables that end with a name of NULL. */
#ifndef TESTS_FAULT_SCENES_H
#define TESTS_FAULT_SCENES_H

#include "fault.h"

extern const struct fault_scenario scenes_serve[], scenes_place[], scenes_events[], scenes_track[],
	scenes_snapshot[], scenes_image[];

#endif
