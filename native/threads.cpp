// How many threads a parallel region may have, and whether the process was forked.
// Instructions: scalar, for any x86-64. Bound by: nothing, it is asked once for each parallel region.
#include "threads.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>

namespace distilmatch {
namespace {

constexpr int kMostThreads = 64;  // on a machine of fewer processors

std::atomic<bool> started{false};  // threads, in this process or in the one that it was forked from
std::atomic<bool> forked{false};

void after_fork_in_child() {
  if (started) forked = true;
}

// When the module is loaded.
const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);

}  // namespace

int team_size(int threads) {
  if (forked || registered != 0) return 1;
  const int size = std::clamp(threads, 1, std::max(kMostThreads, omp_get_num_procs()));
  if (size > 1) started = true;
  return size;
}

bool forked_after_use() { return forked; }

}  // namespace distilmatch
