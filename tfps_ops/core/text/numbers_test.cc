#include "tfps_ops/core/text/numbers.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

template <class Float>
bool Reads(const std::string& text, Float* value) {
  return ReadFloat(text.data(), text.data() + text.size(), value);
}

bool ReadsInteger(const std::string& text, int64_t* value) {
  return ReadInteger(text.data(), text.data() + text.size(), value);
}

template <class Float>
bool SameBits(Float a, Float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

TFPS_TEST(IntegersAreReadWholeOrNotAtAll) {
  int64_t value = 0;
  TFPS_CHECK(ReadsInteger("-7", &value) && value == -7);
  TFPS_CHECK(ReadsInteger("0070", &value) && value == 70);
  TFPS_CHECK(ReadsInteger("999999999999999999", &value) && value == 999999999999999999);
  TFPS_CHECK(ReadsInteger("-0", &value) && value == 0);
  for (const char* text : {"", "-", "+7", " 7", "7 ", "7.0", "1e3", "0x1f", "1000000000000000000", "--7", "7-", "\xd9\xa7"}) {
    TFPS_CHECK(!ReadsInteger(text, &value));
  }
}

TFPS_TEST(FloatsInEveryFormAreRead) {
  float value = 0;
  const std::vector<std::pair<const char*, float>> forms = {
      {"0", 0.0f}, {"-0", -0.0f}, {"007", 7.0f}, {"-1.5", -1.5f}, {".5", 0.5f}, {"5.", 5.0f}, {"1e3", 1000.0f},
      {"1E+05", 1e5f}, {"25e-2", 0.25f}, {"16777217", 16777216.0f}, {"123456789012345678901", 123456789012345678901.0f},
      {"inf", INFINITY}, {"-inf", -INFINITY}, {"1e-40", 1e-40f}};
  for (const auto& [text, expected] : forms) TFPS_CHECK(Reads(text, &value) && SameBits(value, expected));
  TFPS_CHECK(Reads("nan", &value) && std::isnan(value));
  TFPS_CHECK(Reads("NaN", &value) && std::isnan(value));
  for (const char* text : {"", "-", ".", "-.", "e5", "1e", "1e+", "1.5e-", "+1", "1 2", "0x1", "1_0", "nano", "1e99999", "1e400",
                           "1.2.3", "--1", "1e5.0", "1d3"}) {
    TFPS_CHECK(!Reads(text, &value));
  }
}

TFPS_TEST(ANumberBetweenTwoFloatsIsNotRoundedTwice) {
  // Just above the middle of two floats. As a double it is the middle, which would go to the even float below.
  float value = 0;
  TFPS_CHECK(Reads("1.00000005960464480", &value) && SameBits(value, std::strtof("1.00000005960464480", nullptr)));
  TFPS_CHECK(Reads("1.000000059604644775390625", &value) && value == 1.0f);
  TFPS_CHECK(Reads("1.000000059604644775390626", &value) && value == std::nextafter(1.0f, 2.0f));
}

TFPS_TEST(FloatsAreThoseOfTheStandardLibrary) {
  Random random(7);
  for (int i = 0; i < 200000; ++i) {
    std::string text = random.Integer(0, 1) ? "-" : "";
    for (int64_t digits = random.Integer(1, random.Integer(1, 22)); digits > 0; --digits) text += static_cast<char>('0' + random.Integer(0, 9));
    if (random.Integer(0, 1)) text.insert(text[0] == '-' ? random.Integer(1, text.size()) : random.Integer(0, text.size()), ".");
    if (random.Integer(0, 2) == 0) text += "e" + std::to_string(random.Integer(-30, 30));
    float single = 0;
    double wide = 0;
    if (Reads(text, &wide)) TFPS_CHECK(SameBits(wide, std::strtod(text.c_str(), nullptr)));
    if (Reads(text, &single)) TFPS_CHECK(SameBits(single, std::strtof(text.c_str(), nullptr)));
#if defined(__cpp_lib_to_chars)
    TFPS_CHECK(Reads(text, &wide) && (Reads(text, &single) || std::fabs(wide) > 1e38 || std::fabs(wide) < 2e-45));
#endif
  }
}

}  // namespace
}  // namespace tfps
