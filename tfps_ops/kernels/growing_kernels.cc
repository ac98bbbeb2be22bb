// Kernels of the ops that make and tend tables that grow: find the column behind a handle and call its table.
//
// Threads: any number of Computes run at once; the table has locks of its own. Cost: a lookup of the handle beside what
// core/growing/growing_rows.h says of each method.
#include <algorithm>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/open_row_store.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// The position of `name` in `names`, whose order is that of an enum. The op's registration has checked the name.
template <class Kind, size_t n>
Kind KindOf(const std::string& name, const char* const (&names)[n]) {
  // The op's attributes are strings, so that a saved graph does not depend on the numbers of an enum.
  return static_cast<Kind>(std::find(std::begin(names), std::end(names), name) - std::begin(names));
}

// In the order of the enums in first_value.h and growing_rows.h, and with the names of growing_ops.cc.
constexpr const char* kFirsts[] = {"constant", "uniform", "normal", "truncated_normal"};
constexpr const char* kAdmissions[] = {"always", "count", "filter", "probability"};
constexpr const char* kEvictions[] = {"none", "unseen", "least_recent", "least_frequent", "small_norm", "score"};

Storage StorageOf(tf::DataType dtype) { return dtype == tf::DT_BFLOAT16 ? Storage::kBfloat16 : Storage::kFloat32; }

// A handle whose tensor owns the column: the table and its columns end with the tensors that refer to them.
absl::Status WriteHandle(tf::OpKernelContext* context, std::shared_ptr<GrowingRows> rows, int column) {
  tf::Tensor* handle = nullptr;
  TF_RETURN_IF_ERROR(context->allocate_output(0, {}, &handle));
  handle->scalar<tf::ResourceHandle>()() =
      // Not in a resource manager under a name: such a table would stay until somebody deletes it.
      tf::ResourceHandle::MakeRefCountingHandle(new GrowingColumn(std::move(rows), column), context->device()->name());
  return absl::OkStatus();
}

// Reads attributes, and keeps the first error.
class Attributes {
 public:
  explicit Attributes(tf::OpKernelConstruction* context) : context_(context) {}

  template <class T>
  T Get(const char* name) {
    // A default after a failure: the constructor goes on, and reports the first error at its end.
    T value{};
    status_.Update(context_->GetAttr(name, &value));
    return value;
  }
  const absl::Status& status() const { return status_; }

 private:
  tf::OpKernelConstruction* const context_;
  absl::Status status_;
};

class GrowingTableOp : public tf::OpKernel {
 public:
  explicit GrowingTableOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    // Read once, when the kernel is made: rules do not change while the graph runs.
    Attributes attributes(context);
    options_.dim = attributes.Get<int64_t>("dim");
    options_.storage = StorageOf(attributes.Get<tf::DataType>("storage"));
    options_.first = First(&attributes);
    options_.admission = ReadAdmission(&attributes);
    options_.eviction = ReadEviction(&attributes);
    OP_REQUIRES_OK(context, attributes.status());
  }

  void Compute(tf::OpKernelContext* context) override {
    // A copy: one op may run in several threads, and each run makes a table with a secret of its own.
    GrowingOptions options = options_;
    // Drawn anew for each table: whoever sends ids cannot know which of them would collide.
    std::random_device random;
    options.hash_seed = (uint64_t{random()} << 32) | random();
    auto rows = MakeGrowingRows(options);
    OP_REQUIRES_OK(context, ToTensorFlow(rows));
    OP_REQUIRES_OK(context, WriteHandle(context, std::move(rows.value()), 0));
  }

 private:
  static FirstValue First(Attributes* attributes) {
    FirstValue first;
    first.kind = KindOf<FirstValue::Kind>(attributes->Get<std::string>("first"), kFirsts);
    first.a = attributes->Get<float>("first_a");
    first.b = attributes->Get<float>("first_b");
    const auto stream = attributes->Get<std::vector<int64_t>>("first_stream");
    // An attribute is signed; the bits are those of the stream.
    // Empty for constants, which have no stream.
    if (stream.size() == 3) {
      first.key = static_cast<uint64_t>(stream[0]);
      for (int i = 0; i < 2; ++i) first.counter[i] = static_cast<uint64_t>(stream[1 + i]);
    }
    return first;
  }

  static Admission ReadAdmission(Attributes* attributes) {
    Admission admission;
    admission.kind = KindOf<Admission::Kind>(attributes->Get<std::string>("admission"), kAdmissions);
    admission.n = attributes->Get<int64_t>("admission_count");
    admission.filter_keys = attributes->Get<int64_t>("admission_keys");
    admission.p = attributes->Get<float>("admission_probability");
    admission.reads_first_value = attributes->Get<bool>("reads_first_value");
    return admission;
  }

  static Eviction ReadEviction(Attributes* attributes) {
    Eviction eviction;
    eviction.kind = KindOf<Eviction::Kind>(attributes->Get<std::string>("eviction"), kEvictions);
    eviction.steps = attributes->Get<int64_t>("eviction_steps");
    eviction.seconds = attributes->Get<float>("eviction_seconds");
    eviction.threshold = attributes->Get<float>("eviction_threshold");
    eviction.decay = attributes->Get<float>("eviction_decay");
    eviction.gain = attributes->Get<float>("eviction_gain");
    eviction.max_rows = attributes->Get<int64_t>("max_rows");
    eviction.max_bytes = attributes->Get<int64_t>("max_bytes");
    return eviction;
  }

  GrowingOptions options_;
};

class GrowingColumnOp : public tf::OpKernel {
 public:
  explicit GrowingColumnOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("width", &width_));
    OP_REQUIRES_OK(context, context->GetAttr("initial", &initial_));
    tf::DataType storage;
    OP_REQUIRES_OK(context, context->GetAttr("storage", &storage));
    storage_ = StorageOf(storage);
  }

  void Compute(tf::OpKernelContext* context) override {
    GrowingColumnPtr table;
    OP_REQUIRES_OK(context, FindColumn(context, context->input(0), &table));
    const auto column = table->rows().AddColumn(width_, initial_, storage_);
    OP_REQUIRES_OK(context, ToTensorFlow(column));
    // The handle shares the rows, so a slot outlives the handle of its table.
    OP_REQUIRES_OK(context, WriteHandle(context, table->shared_rows(), column.value()));
  }

 private:
  int64_t width_ = 0;
  float initial_ = 0;
  Storage storage_ = Storage::kFloat32;
};

// What the other kernels share: the column, and the keys where the op has some.
class ColumnOp : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) final {
    GrowingColumnPtr column;
    // A reference for the time of the call: the table cannot end while it runs.
    OP_REQUIRES_OK(context, FindColumn(context, context->input(0), &column));
    OP_REQUIRES_OK(context, Run(context, *column));
  }

 protected:
  // A status and not OP_REQUIRES, so that helpers can fail without a return in each kernel.
  virtual absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) = 0;

  // Input 1 as keys.
  static absl::Status Keys(tf::OpKernelContext* context, RowKeys* keys) {
    TF_RETURN_IF_ERROR(CheckVector("keys", context->input(1)));
    // Not copied: the input lives as long as the Compute.
    *keys = {context->input(1).flat<int64_t>().data(), context->input(1).NumElements()};
    return absl::OkStatus();
  }

  // Writes a vector to an output.
  template <class T>
  static absl::Status WriteVector(tf::OpKernelContext* context, int output, const std::vector<T>& values) {
    tf::Tensor* tensor = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(output, {static_cast<int64_t>(values.size())}, &tensor));
    std::copy(values.begin(), values.end(), tensor->flat<T>().data());
    return absl::OkStatus();
  }

  template <class T>
  static absl::Status WriteScalar(tf::OpKernelContext* context, int output, T value) {
    tf::Tensor* tensor = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(output, {}, &tensor));
    tensor->scalar<T>()() = value;
    return absl::OkStatus();
  }
};

class GrowingMetaOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    // The handle keeps the table alive, as that of a slot does.
    return WriteHandle(context, column.shared_rows(), GrowingColumn::kMeta);
  }
};

class AssignGrowingOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    RowKeys keys;
    TF_RETURN_IF_ERROR(Keys(context, &keys));
    const tf::Tensor& values = context->input(2);
    // Not by the shape function alone: shapes are often known at run time only, and the store reads plain memory.
    if (values.dims() != 2 || values.dim_size(0) != keys.count || values.dim_size(1) != column.width()) {
      return ToTensorFlow(InvalidArgument("`values` must be [", keys.count, ", ", column.width(), "]. Received: shape ",
                                          values.shape().DebugString(), "."));
    }
    const float* floats = values.flat<float>().data();
    if (column.column() != GrowingColumn::kMeta) return ToTensorFlow(column.rows().Assign(column.column(), keys, floats));
    std::vector<RowMeta> meta(keys.count);
    for (int64_t i = 0; i < keys.count; ++i) {
      const float* one = floats + i * GrowingColumn::kMetaWidth;
      // The order of GrowingColumn::kMeta. A float holds whole updates up to 2^24; beyond, an age is right to 1 part in 2^24.
      meta[i] = {static_cast<int64_t>(one[0]), one[1], one[2]};
    }
    column.rows().AssignMeta(keys, meta.data());
    return absl::OkStatus();
  }
};

class GrowingSinceOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    const auto since = column.rows().Since(context->input(1).scalar<int64_t>()());
    TF_RETURN_IF_ERROR(ToTensorFlow(since));
    TF_RETURN_IF_ERROR(WriteVector(context, 0, since.value().touched));
    TF_RETURN_IF_ERROR(WriteVector(context, 1, since.value().evicted));
    TF_RETURN_IF_ERROR(WriteScalar(context, 2, since.value().cursor));
    // The cursor and this flag come with the keys, as they are only right together.
    return WriteScalar(context, 3, since.value().complete);
  }
};

class GrowingCountsOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    const GrowthCounts counts = column.rows().Counts();
    TF_RETURN_IF_ERROR(WriteVector<int64_t>(context, 0,
                                            {counts.rows, counts.bytes, counts.admitted, counts.refused,
                                             counts.over_budget, counts.evicted, counts.updates}));
    return WriteVector<double>(context, 1, {counts.load, counts.probes});
  }
};

class EraseGrowingOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    RowKeys keys;
    TF_RETURN_IF_ERROR(Keys(context, &keys));
    // Erasing is by key and for all columns: a row does not lose one slot alone.
    return WriteScalar(context, 0, column.rows().Erase(keys));
  }
};

class ClearGrowingOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext*, const GrowingColumn& column) override {
    // Also through the handle of a slot: a column has no rows of its own.
    column.rows().Clear();
    return absl::OkStatus();
  }
};

class PinGrowingOp : public ColumnOp {
 public:
  explicit PinGrowingOp(tf::OpKernelConstruction* context) : ColumnOp(context) {
    // An attribute and not an input: one graph pins, another one unpins.
    OP_REQUIRES_OK(context, context->GetAttr("pinned", &pinned_));
  }

 private:
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    RowKeys keys;
    TF_RETURN_IF_ERROR(Keys(context, &keys));
    column.rows().Pin(keys, pinned_);
    return absl::OkStatus();
  }

  bool pinned_ = false;
};

class AddScoresOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    RowKeys keys;
    TF_RETURN_IF_ERROR(Keys(context, &keys));
    const tf::Tensor& amounts = context->input(2);
    // As in AssignGrowingOp: the store would read beyond the end.
    if (amounts.NumElements() != keys.count) {
      return ToTensorFlow(InvalidArgument("`amounts` must be as many as the ", keys.count, " keys. Received: shape ",
                                          amounts.shape().DebugString(), "."));
    }
    return ToTensorFlow(column.rows().AddScores(keys, amounts.flat<float>().data()));
  }
};

class EvictGrowingOp : public ColumnOp {
  using ColumnOp::ColumnOp;
  absl::Status Run(tf::OpKernelContext* context, const GrowingColumn& column) override {
    // A bound that the caller gives, so that one call does not walk over a large table at once.
    TF_RETURN_IF_ERROR(CheckCount("rows", context->input(1)));
    return WriteScalar(context, 0, column.rows().Evict(context->input(1).scalar<int64_t>()()));
  }
};

#define TFPS_REGISTER(name, kernel) REGISTER_KERNEL_BUILDER(Name(name).Device(tf::DEVICE_CPU), kernel)
TFPS_REGISTER("TfpsGrowingTable", GrowingTableOp);
TFPS_REGISTER("TfpsGrowingColumn", GrowingColumnOp);
TFPS_REGISTER("TfpsGrowingMeta", GrowingMetaOp);
TFPS_REGISTER("TfpsAssignGrowing", AssignGrowingOp);
TFPS_REGISTER("TfpsGrowingSince", GrowingSinceOp);
TFPS_REGISTER("TfpsGrowingCounts", GrowingCountsOp);
TFPS_REGISTER("TfpsEraseGrowing", EraseGrowingOp);
TFPS_REGISTER("TfpsClearGrowing", ClearGrowingOp);
TFPS_REGISTER("TfpsPinGrowing", PinGrowingOp);
TFPS_REGISTER("TfpsAddScores", AddScoresOp);
TFPS_REGISTER("TfpsEvictGrowing", EvictGrowingOp);

}  // namespace
}  // namespace tfps
