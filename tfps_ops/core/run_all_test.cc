// Runs every test of the core; the exit status is 0 if all passed, and the first check that fails ends the process.
#include "tfps_ops/core/testing.h"

int main() {
  for (const tfps::Test& test : tfps::Tests()) {
    std::printf("%s\n", test.name);
    std::fflush(stdout);
    test.run();
  }
  std::printf("%zu passed, 0 failed\n", tfps::Tests().size());
  return tfps::Tests().empty();
}
