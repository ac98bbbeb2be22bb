#include "tfps_ops/core/text/separators.h"

#include <string>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(EveryCpuTargetFindsWhatALoopFinds) {
  Random random(3);
  for (int i = 0; i < 400; ++i) {
    // Exactly as long as it is, so that a sanitizer sees a read behind the end.
    std::vector<char> text(random.Integer(0, 300));
    for (char& c : text) c = "\n\tab\xff"[random.Integer(0, 4)];
    std::vector<uint32_t> expected;
    int64_t tabs = 0;
    for (size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '\n' || text[at] == '\t') expected.push_back(at);
      tabs += text[at] == '\t';
    }
    for (CpuTarget target : SupportedCpuTargets()) {
      const SeparatorKernels& kernels = SeparatorKernelsFor(target);
      std::vector<uint32_t> found(text.size());
      found.resize(kernels.find(text.data(), text.size(), '\n', '\t', found.data()));
      TFPS_CHECK(found == expected);
      TFPS_CHECK(kernels.count(text.data(), text.size(), '\t') == tabs);
    }
  }
}

}  // namespace
}  // namespace tfps
