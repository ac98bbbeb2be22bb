#include "tfps_ops/core/text/line_parser.h"

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TextColumn Number(CellType type) { return {type, "", false, 0, ""}; }
TextColumn Hashed(int64_t buckets, std::string prefix = "") { return {CellType::kBucket, "", true, buckets, std::move(prefix)}; }

// Rows of [int64, float, bucket of 1000] with a cell between them that is not read.
struct Parsed {
  explicit Parsed(std::string_view text, char delimiter = '\t', bool has_quotes = false) {
    TextColumn missing = Number(CellType::kFloat32);
    missing.has_default = true;
    missing.default_text = "-2.5";
    const LineParser parser = ValueOf(LineParser::Make({Number(CellType::kInt64), missing, Hashed(1000)}, delimiter, has_quotes));
    const int64_t room = LineParser::CountLines(text);
    integers.resize(room);
    floats.resize(room);
    buckets.resize(room);
    is_ok = parser.Parse(text, {0, -1, 1, 2}, {{integers.data()}, {floats.data()}, {buckets.data()}}, &rows);
    integers.resize(is_ok ? rows : 0);
    floats.resize(is_ok ? rows : 0);
    buckets.resize(is_ok ? rows : 0);
  }

  bool is_ok = false;
  int64_t rows = -1;
  std::vector<int64_t> integers;
  std::vector<float> floats;
  std::vector<int64_t> buckets;
};

int64_t BucketOf(const std::string& text, uint64_t buckets) { return Fingerprint64(text.data(), text.size()) % buckets; }

TFPS_TEST(LinesBecomeRowsOfTheirColumns) {
  const Parsed parsed("7\tskipped\t1.5\tab\n-1\t\t\t\n");
  TFPS_CHECK(parsed.is_ok && parsed.rows == 2);
  TFPS_CHECK(parsed.integers == (std::vector<int64_t>{7, -1}));
  TFPS_CHECK(parsed.floats == (std::vector<float>{1.5f, -2.5f}));
  TFPS_CHECK(parsed.buckets == (std::vector<int64_t>{BucketOf("ab", 1000), BucketOf("", 1000)}));
}

TFPS_TEST(EveryEndOfALineIsAnEnd) {
  for (const char* text : {"1\t\t2\tx\n3\t\t4\ty\n", "1\t\t2\tx\r\n3\t\t4\ty\r\n", "1\t\t2\tx\n3\t\t4\ty", "1\t\t2\tx\n3\t\t4\ty\r",
                           "\n\r\n1\t\t2\tx\n\n\n3\t\t4\ty\n\r\n", " 1 \t\t 2\tx\n3\t\t4 \ty"}) {
    const Parsed parsed(text);
    TFPS_CHECK(parsed.is_ok && parsed.integers == (std::vector<int64_t>{1, 3}));
    TFPS_CHECK(parsed.buckets == (std::vector<int64_t>{BucketOf("x", 1000), BucketOf("y", 1000)}));
  }
  const Parsed empty("");
  TFPS_CHECK(empty.is_ok && empty.rows == 0);
}

TFPS_TEST(WhatThisReaderDoesNotKnowIsDeclined) {
  for (const char* text : {"1\t\t2\n", "1\t\t2\tx\ty\n", "1\t\t2\tx\n1\t\t", "\t\t2\tx\n", "one\t\t2\tx\n", "1\t\ttwo\tx\n",
                           "1\t\t2\tx\ry\n", "1\t\t2\tx\r\r\n", "1\t\t \tx\n", "\t\t\t\t", "1\t\r\t2\tx\n"}) {
    TFPS_CHECK(!Parsed(text).is_ok);
  }
  TFPS_CHECK(Parsed("1,\"\",2,x\n", ',', false).is_ok);
  TFPS_CHECK(!Parsed("1,\"\",2,x\n", ',', true).is_ok);
}

TFPS_TEST(ALineOfOneCellMayBeEmpty) {
  const LineParser parser = ValueOf(LineParser::Make({Hashed(10)}, ',', true));
  std::vector<int64_t> buckets(3);
  int64_t rows = 0;
  TFPS_CHECK(parser.Parse("a\n\r\nb", {0}, {{buckets.data()}}, &rows) && rows == 3);
  TFPS_CHECK(buckets == (std::vector<int64_t>{BucketOf("a", 10), BucketOf("", 10), BucketOf("b", 10)}));
}

template <class Integer>
void CheckLimits(CellType type) {
  const LineParser parser = ValueOf(LineParser::Make({Number(type)}, ',', false));
  Integer value = 0;
  int64_t rows = 0;
  const auto reads = [&](const std::string& text) { return parser.Parse(text, {0}, {{&value}}, &rows); };
  const bool is_wide = sizeof(Integer) == 8;
  for (const Integer limit : {std::numeric_limits<Integer>::min(), std::numeric_limits<Integer>::max()}) {
    // Those of 64 bits have 19 digits, which the other reader reads.
    TFPS_CHECK(reads(std::to_string(limit)) == (!is_wide || limit == 0));
    if (!is_wide) TFPS_CHECK(value == limit);
  }
  if (!is_wide) {
    TFPS_CHECK(!reads(std::to_string(static_cast<int64_t>(std::numeric_limits<Integer>::max()) + 1)));
    TFPS_CHECK(!reads(std::to_string(static_cast<int64_t>(std::numeric_limits<Integer>::min()) - 1)));
  }
  TFPS_CHECK(reads("-0") == std::is_signed_v<Integer>);
}

TFPS_TEST(IntegersFitTheirTypes) {
  CheckLimits<int8_t>(CellType::kInt8);
  CheckLimits<int16_t>(CellType::kInt16);
  CheckLimits<int32_t>(CellType::kInt32);
  CheckLimits<int64_t>(CellType::kInt64);
  CheckLimits<uint8_t>(CellType::kUInt8);
  CheckLimits<uint16_t>(CellType::kUInt16);
  CheckLimits<uint32_t>(CellType::kUInt32);
  CheckLimits<uint64_t>(CellType::kUInt64);
}

TFPS_TEST(StringsDefaultsAndPrefixes) {
  const TextColumn word{CellType::kString, "none", true, 0, ""};
  const std::string prefix(300, 'p');
  const LineParser parser = ValueOf(LineParser::Make({word, Hashed(97, "c="), Hashed(97, prefix)}, ',', false));
  std::string_view words[2];
  int64_t matrix[4];  // [2, 2], a column of it for each of the two
  int64_t rows = 0;
  const std::string text = std::string("x y,ab,ab\n,,\n");
  TFPS_CHECK(parser.Parse(text, {0, 1, 2}, {{words}, {matrix, 2}, {matrix + 1, 2}}, &rows) && rows == 2);
  TFPS_CHECK(words[0] == "x y" && words[1] == "none");
  TFPS_CHECK(matrix[0] == BucketOf("c=ab", 97) && matrix[1] == BucketOf(prefix + "ab", 97));
  TFPS_CHECK(matrix[2] == BucketOf("c=", 97) && matrix[3] == BucketOf(prefix, 97));
}

TFPS_TEST(DefaultsThatAreNoNumbersAreRefused) {
  TextColumn column = Number(CellType::kInt32);
  column.has_default = true;
  column.default_text = "one";
  TFPS_CHECK(LineParser::Make({column}, ',', false).status().message() ==
             "`defaults` must be numbers of their columns. Received: 'one'.");
  TFPS_CHECK(LineParser::Make({Hashed(0)}, ',', false).status().message() == "`buckets` must be at least 1. Received: 0.");
}

TFPS_TEST(LinesThatCrossPiecesAreParsedAsOthers) {
  // Cells of very different lengths, so that lines and cells lie across the pieces of the search; a slow reader beside it.
  Random random(11);
  for (int round = 0; round < 30; ++round) {
    std::string text;
    std::vector<int64_t> integers, buckets;
    for (int64_t row = random.Integer(0, 60); row > 0; --row) {
      const std::string word(random.Integer(0, 9) ? random.Integer(0, 20) : random.Integer(0, 20000), 'w');
      integers.push_back(random.Integer(-1000000, 1000000));
      buckets.push_back(BucketOf(word, 1000));
      text += std::to_string(integers.back()) + "\t" + std::string(random.Integer(0, 100), 's') + "\t1\t" + word + "\n";
    }
    const Parsed parsed(text);
    TFPS_CHECK(parsed.is_ok && parsed.integers == integers && parsed.buckets == buckets);
  }
}

}  // namespace
}  // namespace tfps
