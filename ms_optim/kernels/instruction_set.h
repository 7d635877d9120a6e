// The rules, what runs them, and functions of vectors, for the instruction set and in the namespace that kernels.cpp has
// opened. No header that is included here has a guard.

#include "rules.h"

#include "half.h"

#include "apply.h"

#include "units.h"

#include "vectors.h"
