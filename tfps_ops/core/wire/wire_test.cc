// Rows and requests in fewer bytes: every CPU target against the definition, and messages that nobody sent.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/core/testing.h"
#include "tfps_ops/core/wire/error_store.h"
#include "tfps_ops/core/wire/request_codec.h"
#include "tfps_ops/core/wire/row_codec.h"
#include "tfps_ops/core/wire/wire_kernels.h"

namespace tfps {
namespace {

// Below, at and above the widths of the vectors of all targets.
const int64_t kDims[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinite = std::numeric_limits<float>::infinity();
const RowCodec kCodecs[] = {RowCodec::kBfloat16, RowCodec::kInt8};

// Numbers of very different sizes; some are 0, tiny, huge or not finite.
std::vector<float> Rows(Random* random, int64_t count) {
  const float special[] = {0.0f, -0.0f, 1e-44f, 1e-37f, 3.4e38f, -3.4e38f, kNan, kInfinite, -kInfinite};
  std::vector<float> rows = random->Floats(count);
  for (float& x : rows) {
    x = std::ldexp(x, static_cast<int>(random->Integer(-20, 20)));
    if (random->Integer(0, 19) == 0) x = special[random->Integer(0, 8)];
  }
  return rows;
}

// bfloat16 by its definition: of the two neighbours the nearer one, and of equally near ones the even one.
float NearestBfloat16(float x) {
  if (!std::isfinite(x)) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t below = bits & 0xffff0000u, above = below + 0x10000u;
  float low, high;
  std::memcpy(&low, &below, sizeof(low));
  std::memcpy(&high, &above, sizeof(high));
  if (!std::isfinite(high)) return low;
  const double to_low = std::fabs(double{x} - low), to_high = std::fabs(double{high} - x);
  return to_low < to_high || (to_low == to_high && (below & 0x10000u) == 0) ? low : high;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

TFPS_TEST(Bfloat16IsTheNearest) {
  Random random(1);
  const std::vector<float> rows = Rows(&random, 5000);
  for (CpuTarget target : SupportedCpuTargets()) {
    std::vector<uint16_t> coded(rows.size());
    std::vector<float> read(rows.size());
    WireKernelsFor(target).to_bfloat16(rows.data(), rows.size(), 0, false, coded.data());
    WireKernelsFor(target).from_bfloat16(coded.data(), rows.size(), read.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (std::isnan(rows[i])) TFPS_CHECK(std::isnan(read[i]));
      else TFPS_CHECK(read[i] == NearestBfloat16(rows[i]));
    }
  }
}

TFPS_TEST(AllTargetsWriteTheSameBytes) {
  for (int64_t dim : kDims) {
    for (bool stochastic : {false, true}) {
      Random random(dim);
      const int64_t count = 40;
      const std::vector<float> rows = Rows(&random, count * dim);
      std::vector<uint16_t> halves(count * dim), scales(count);
      std::vector<int8_t> codes(count * dim);
      std::vector<float> read(count * dim);
      const WireKernels& baseline = WireKernelsFor(CpuTarget::kBaseline);
      baseline.to_bfloat16(rows.data(), count * dim, 5, stochastic, halves.data());
      baseline.to_int8(rows.data(), count, dim, 5, stochastic, scales.data(), codes.data());
      baseline.from_int8(scales.data(), codes.data(), count, dim, read.data());
      for (CpuTarget target : SupportedCpuTargets()) {
        std::vector<uint16_t> other_halves(count * dim), other_scales(count);
        std::vector<int8_t> other_codes(count * dim);
        std::vector<float> other_read(count * dim);
        const WireKernels& kernels = WireKernelsFor(target);
        kernels.to_bfloat16(rows.data(), count * dim, 5, stochastic, other_halves.data());
        kernels.to_int8(rows.data(), count, dim, 5, stochastic, other_scales.data(), other_codes.data());
        kernels.from_int8(other_scales.data(), other_codes.data(), count, dim, other_read.data());
        TFPS_CHECK(halves == other_halves && scales == other_scales && codes == other_codes);
        TFPS_CHECK(SameBits(read, other_read));
      }
    }
  }
}

TFPS_TEST(Int8IsWithinHalfAStepOfEachElement) {
  Random random(2);
  for (int64_t dim : kDims) {
    const std::vector<float> rows = Rows(&random, 30 * dim);
    std::vector<float> coded(CodedFloats(RowCodec::kInt8, 30, dim)), read(30 * dim);
    EncodeRows(RowCodec::kInt8, rows.data(), 30, dim, false, coded.data(), InThreads);
    DecodeRows(RowCodec::kInt8, coded.data(), 30, dim, read.data(), InThreads);
    for (int64_t i = 0; i < 30; ++i) {
      double most = 0;
      for (int64_t j = 0; j < dim; ++j) {
        if (std::isfinite(rows[i * dim + j])) most = std::fmax(most, std::fabs(double{rows[i * dim + j]}));
      }
      for (int64_t j = 0; j < dim; ++j) {
        const float x = rows[i * dim + j], y = read[i * dim + j];
        if (!std::isfinite(x)) TFPS_CHECK(std::isnan(y));
        // Numbers at the limit of float32 are cut off at 3.3e38; those below 2e-36 are lost.
        else TFPS_CHECK(std::fabs(double{x} - y) <= most * 1.008 / 254 + (most > 3.3e38 ? 0.05 * most : 0) + 2e-36);
      }
    }
  }
}

TFPS_TEST(AnyNumberOfThreadsWritesTheSameBytes) {
  Random random(3);
  for (RowCodec codec : kCodecs) {
    const int64_t count = 101, dim = 7, floats = CodedFloats(codec, count, dim);
    const std::vector<float> rows = Rows(&random, count * dim);
    std::vector<float> one(floats, 1.0f), several(floats, 2.0f);
    EncodeRows(codec, rows.data(), count, dim, true, one.data(), InCallersThread);
    EncodeRows(codec, rows.data(), count, dim, true, several.data(), InThreads);
    TFPS_CHECK(SameBits(one, several));
  }
}

TFPS_TEST(SizesThatDoNotFitAreRefused) {
  TFPS_CHECK(CheckCoded(RowCodec::kInt8, CodedFloats(RowCodec::kInt8, 3, 16), 3, 16).ok());
  for (int64_t count : {int64_t{-1}, int64_t{2}, int64_t{4}, int64_t{1} << 62}) {
    TFPS_CHECK(!CheckCoded(RowCodec::kInt8, CodedFloats(RowCodec::kInt8, 3, 16), count, 16).ok());
  }
}

TFPS_TEST(RequestsAreReadAsTheyWereWritten) {
  Random random(4);
  for (bool marked : {false, true}) {
    for (int64_t limit : {1, 255, 256, 1 << 20}) {
      std::vector<int64_t> request = {7, 0, 30};
      for (int i = 0; i < 37; ++i) {
        request.push_back(random.Integer(0, limit) + (marked && random.Integer(0, 1) == 1 ? kRepeats : 0));
      }
      const std::vector<float> coded = ValueOf(EncodeRequest(request.data(), request.size(), 3, marked));
      TFPS_CHECK(ValueOf(DecodeRequest(coded.data(), coded.size(), 3, marked)) == request);
    }
  }
  // Tables that grow have ids of all 64 bits.
  const std::vector<int64_t> request = {2, -1, std::numeric_limits<int64_t>::min()};
  const std::vector<float> coded = ValueOf(EncodeRequest(request.data(), request.size(), 1, false));
  TFPS_CHECK(ValueOf(DecodeRequest(coded.data(), coded.size(), 1, false)) == request);
}

TFPS_TEST(RandomBytesAreNoRequest) {
  Random random(5);
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> bytes(random.Integer(0, 12));
    for (float& four : bytes) {
      const int32_t bits = static_cast<int32_t>(random.Integer(-3, 3) * random.Integer(0, 1 << 28));
      std::memcpy(&four, &bits, sizeof(four));
    }
    const Result<std::vector<int64_t>> read = DecodeRequest(bytes.data(), bytes.size(), 2, round % 2 == 0);
    // What is accepted has as many rows as its counts say.
    if (read.ok()) TFPS_CHECK(static_cast<int64_t>(read.value().size()) == 2 + read.value()[0] + read.value()[1]);
  }
}

// All that the pushes have sent of a row, and what was meant to be sent, for a store of so many places.
void Push(int places_log2, int64_t rows, int64_t steps, std::vector<double>* meant, std::vector<double>* sent) {
  const int64_t dim = 4;
  Random random(6);
  std::vector<int64_t> keys(int64_t{1} << places_log2), request = {rows};
  std::vector<float> errors(keys.size() * dim), coded(CodedFloats(RowCodec::kInt8, rows, dim)), read(rows * dim);
  for (int64_t row = 0; row < rows; ++row) request.push_back(1000 + row);
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<float> gradients = random.Floats(rows * dim);
    for (int64_t i = 0; i < rows * dim; ++i) gradients[i] = i % dim == 0 ? gradients[i] : 0.001f;
    const ErrorStore store = {keys.data(), errors.data(), places_log2};
    TFPS_CHECK(EncodeWithErrors(RowCodec::kInt8, request.data(), request.size(), 1, false, gradients.data(), dim, store,
                                coded.data(), InThreads)
                   .ok());
    DecodeRows(RowCodec::kInt8, coded.data(), rows, dim, read.data(), InCallersThread);
    for (int64_t i = 0; i < rows * dim; ++i) {
      (*meant)[i] += gradients[i];
      (*sent)[i] += read[i];
    }
  }
}

TFPS_TEST(ErrorsComeBackWithTheNextPush) {
  std::vector<double> meant(20 * 4), sent(20 * 4);
  Push(14, 20, 200, &meant, &sent);
  // At most one step of the largest gradients, about 4 / 127.
  for (size_t i = 0; i < meant.size(); ++i) TFPS_CHECK(std::fabs(meant[i] - sent[i]) < 0.05);
}

TFPS_TEST(AFullStoreLosesErrorsThatAreZeroInTheMean) {
  std::vector<double> meant(500 * 4), sent(500 * 4);
  Push(1, 500, 200, &meant, &sent);
  double difference = 0;
  for (size_t i = 0; i < meant.size(); ++i) difference += i % 4 == 0 ? 0 : sent[i] - meant[i];
  // 1500 sums of 0.2 each.
  TFPS_CHECK(std::fabs(difference) < 0.1 * 1500 * 0.2);
}

}  // namespace
}  // namespace tfps
