// How many threads a parallel region may have.
#pragma once

namespace distilmatch {

// `threads`, or 1 in a process that was forked from one whose threads had been started: those do not live in the child, and a
// region of several threads would wait for them for ever.
int team_size(int threads);

// Whether this is such a process.
bool forked_after_use();

}  // namespace distilmatch
