// Kernels of the ops of the rows that a worker keeps: find the cache behind a handle and call core/cache/worker_cache.h.
//
// Threads: any number of Computes run at once; the cache has a lock. Cost: a hash lookup and a copy for each row.
#include <algorithm>
#include <utility>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/kernels/status_conversion.h"
#include "tfps_ops/stores/cache_resource.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// An op on a cache that a closure has opened.
class CacheOp : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) final {
    tf::core::RefCountPtr<CacheResource> resource;
    OP_REQUIRES_OK(context, tf::LookupResource(context, tf::HandleFromInput(context, 0), &resource));
    OP_REQUIRES_OK(context, Run(context, &resource->cache()));
  }

 protected:
  virtual absl::Status Run(tf::OpKernelContext* context, WorkerCache* cache) = 0;
};

class OpenRowCacheOp : public tf::OpKernel {
 public:
  explicit OpenRowCacheOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rows", &rows_));
    OP_REQUIRES_OK(context, context->GetAttr("max_staleness", &max_staleness_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& version = context->input(1);
    OP_REQUIRES(context, version.dims() == 0,
                ToTensorFlow(InvalidArgument("`version` must be a scalar. Received: shape ", version.shape().DebugString())));
    OP_REQUIRES_OK(context, CheckCount("max_missed", context->input(2)));
    tf::core::RefCountPtr<CacheResource> resource;
    // The first closure on a worker makes the cache, and so does the first on a worker that was replaced.
    const auto make = [this](CacheResource** made) {
      *made = new CacheResource(rows_, max_staleness_);
      return absl::OkStatus();
    };
    OP_REQUIRES_OK(context, tf::LookupOrCreateResource<CacheResource>(context, tf::HandleFromInput(context, 0), &resource, make));
    resource->cache().Open(version.scalar<int64_t>()(), context->input(2).scalar<int64_t>()());
  }

 private:
  int64_t rows_ = 0, max_staleness_ = 0;
};

class BeginCacheStepOp : public CacheOp {
  using CacheOp::CacheOp;
  absl::Status Run(tf::OpKernelContext*, WorkerCache* cache) override {
    cache->BeginStep();
    return absl::OkStatus();
  }
};

// An op on the rows that a step asks for. It gets the requests, because they say how many rows of the answer each table has.
class CacheQueryOp : public CacheOp {
 public:
  explicit CacheQueryOp(tf::OpKernelConstruction* context) : CacheOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("pieces", &pieces_));
    OP_REQUIRES_OK(context, context->GetAttr("tables", &tables_));
    int64_t servers = 0, total = 0;
    OP_REQUIRES_OK(context, context->GetAttr("S", &servers));
    // A graph may come from anywhere, and a list that is too short would be read beyond its end.
    bool fits = static_cast<int64_t>(pieces_.size()) == servers;
    for (int64_t pieces : pieces_) {
      fits = fits && pieces >= 0 && pieces <= static_cast<int64_t>(tables_.size());
      total += pieces;
    }
    for (int64_t table : tables_) fits = fits && table >= 0 && table <= INT32_MAX;
    OP_REQUIRES(context, fits && total == static_cast<int64_t>(tables_.size()),
                ToTensorFlow(InvalidArgument("`pieces` must have an element for each of ", servers, " servers, and `tables` a "
                                             "number from 0 to 2^31 - 1 for each piece. Received: ", pieces_.size(),
                                             " servers, ", total, " pieces, ", tables_.size(), " tables.")));
  }

 protected:
  // Reads the query of a step, and the pieces of each request, whose counts are checked.
  absl::Status Read(tf::OpKernelContext* context, int64_t dim, CacheQuery* query,
                    std::vector<std::vector<PieceRows>>* requests) const {
    const tf::Tensor& ids = context->input(1);
    TF_RETURN_IF_ERROR(CheckVector("ids", ids));
    int64_t rows = 0;
    size_t piece = 0;
    for (size_t s = 0; s < pieces_.size(); ++s) {
      const tf::Tensor& request = context->input(2 + s);
      TF_RETURN_IF_ERROR(CheckVector("requests", request));
      auto read = ReadRequest(request.flat<int64_t>().data(), request.NumElements(), pieces_[s]);
      TF_RETURN_IF_ERROR(ToTensorFlow(read));
      for (const PieceRows& of_piece : read.value()) {
        query->segments.push_back({static_cast<int32_t>(tables_[piece++]), of_piece.count});
        rows += of_piece.count;
      }
      requests->push_back(std::move(read.value()));
    }
    query->ids = ids.flat<int64_t>().data();
    query->dim = dim;
    if (rows == ids.NumElements()) return absl::OkStatus();
    return ToTensorFlow(InvalidArgument("`ids` must be one for each of the ", rows, " rows of `requests`. Received: ",
                                        ids.NumElements(), "."));
  }

  int64_t servers() const { return static_cast<int64_t>(pieces_.size()); }

 private:
  std::vector<int64_t> pieces_, tables_;
};

class FindCachedRowsOp : public CacheQueryOp {
 public:
  explicit FindCachedRowsOp(tf::OpKernelConstruction* context) : CacheQueryOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }

 private:
  absl::Status Run(tf::OpKernelContext* context, WorkerCache* cache) override {
    CacheQuery query;
    std::vector<std::vector<PieceRows>> requests;
    TF_RETURN_IF_ERROR(Read(context, dim_, &query, &requests));
    tf::TensorShape shape;
    TF_RETURN_IF_ERROR(tf::TensorShape::BuildTensorShape({context->input(1).NumElements(), dim_}, &shape));
    // Outputs are the remaining requests, rows, missing, moment.
    tf::Tensor* output = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(servers(), shape, &output));
    float* const rows = output->flat<float>().data();
    std::vector<int32_t> missing;
    const CacheMoment moment = cache->Find(query, rows, &missing);
    ClearMissing(missing, rows);
    TF_RETURN_IF_ERROR(context->allocate_output(servers() + 1, {static_cast<int64_t>(missing.size())}, &output));
    std::copy(missing.begin(), missing.end(), output->flat<int32_t>().data());
    TF_RETURN_IF_ERROR(context->allocate_output(servers() + 2, {2}, &output));
    output->flat<int64_t>()(0) = moment.version;
    output->flat<int64_t>()(1) = moment.step;
    return WriteRemaining(context, requests, missing);
  }

  // The places of rows that will be fetched hold what was in memory before. They are overwritten, but NaN checks may read them.
  void ClearMissing(const std::vector<int32_t>& missing, float* rows) const {
    for (int32_t place : missing) std::fill_n(rows + place * dim_, dim_, 0.0f);
  }

  // Writes the requests for the missing rows.
  // Example: the request [2, 1, 7, 0, 5] of two pieces, of which the rows at the places 0 and 2 are missing, becomes [1, 1, 7, 5].
  absl::Status WriteRemaining(tf::OpKernelContext* context, const std::vector<std::vector<PieceRows>>& requests,
                              const std::vector<int32_t>& missing) const {
    auto next = missing.begin();
    int64_t place = 0;
    for (int64_t s = 0; s < servers(); ++s) {
      // Rows come after the counts, so both are collected before the size of the request is known.
      std::vector<int64_t> counts, wanted;
      for (const PieceRows& piece : requests[s]) {
        const size_t before = wanted.size();
        for (int64_t i = 0; i < piece.count; ++i, ++place) {
          if (next == missing.end() || *next != place) continue;
          wanted.push_back(piece.rows[i]);
          ++next;
        }
        counts.push_back(static_cast<int64_t>(wanted.size() - before));
      }
      tf::Tensor* output = nullptr;
      TF_RETURN_IF_ERROR(context->allocate_output(s, {static_cast<int64_t>(counts.size() + wanted.size())}, &output));
      std::copy(wanted.begin(), wanted.end(), std::copy(counts.begin(), counts.end(), output->flat<int64_t>().data()));
    }
    return absl::OkStatus();
  }

  int64_t dim_ = 0;
};

class StoreCachedRowsOp : public CacheQueryOp {
  using CacheQueryOp::CacheQueryOp;
  absl::Status Run(tf::OpKernelContext* context, WorkerCache* cache) override {
    // Inputs are the handle, the ids, the requests, then these four.
    const int64_t after = 2 + servers();
    const tf::Tensor& missing = context->input(after + 1);
    const tf::Tensor& moment = context->input(after + 2);
    const tf::Tensor& fetched = context->input(after + 3);
    TF_RETURN_IF_ERROR(Check(context->input(after), missing, moment, fetched));
    CacheQuery query;
    std::vector<std::vector<PieceRows>> requests;
    TF_RETURN_IF_ERROR(Read(context, fetched.dim_size(1), &query, &requests));
    tf::Tensor* answer = nullptr;
    TF_RETURN_IF_ERROR(Answer(context, after, &answer));
    const int32_t* const places = missing.flat<int32_t>().data();
    TF_RETURN_IF_ERROR(Fill(places, fetched, answer));
    const auto of_moment = moment.flat<int64_t>();
    cache->Store(query, {of_moment(0), of_moment(1)}, places, missing.NumElements(), fetched.flat<float>().data());
    return absl::OkStatus();
  }

  static absl::Status Check(const tf::Tensor& rows, const tf::Tensor& missing, const tf::Tensor& moment,
                            const tf::Tensor& fetched) {
    const bool fits = rows.dims() == 2 && fetched.dims() == 2 && missing.dims() == 1 && moment.NumElements() == 2 &&
                      rows.dim_size(1) == fetched.dim_size(1) && missing.NumElements() == fetched.dim_size(0);
    if (fits) return absl::OkStatus();
    return ToTensorFlow(InvalidArgument("`fetched` must have a row for each of `missing`, as wide as those of `rows`. Received: ",
                                        fetched.shape().DebugString(), ", ", missing.shape().DebugString(), " and ",
                                        rows.shape().DebugString(), "."));
  }

  // The buffer of `rows` if nobody else reads it, else a copy.
  static absl::Status Answer(tf::OpKernelContext* context, int64_t input, tf::Tensor** answer) {
    const tf::Tensor& rows = context->input(input);
    if (rows.dim_size(0) != context->input(1).NumElements()) {
      return ToTensorFlow(InvalidArgument("`rows` must have a row for each of the ", context->input(1).NumElements(),
                                          " ids. Received: ", rows.shape().DebugString(), "."));
    }
    int forwarded = -1;
    TF_RETURN_IF_ERROR(context->forward_input_or_allocate_output({static_cast<int>(input)}, 0, rows.shape(), answer, &forwarded));
    if (forwarded < 0) {
      const auto from = rows.flat<float>();
      std::copy_n(from.data(), from.size(), (*answer)->flat<float>().data());
    }
    return absl::OkStatus();
  }

  static absl::Status Fill(const int32_t* places, const tf::Tensor& fetched, tf::Tensor* answer) {
    const int64_t dim = fetched.dim_size(1), rows = answer->dim_size(0);
    const float* const from = fetched.flat<float>().data();
    float* const to = answer->flat<float>().data();
    for (int64_t i = 0; i < fetched.dim_size(0); ++i) {
      if (places[i] < 0 || places[i] >= rows) {
        return ToTensorFlow(InvalidArgument("`missing` must be at least 0 and below ", rows, ". Received: ", places[i], "."));
      }
      std::copy_n(from + i * dim, dim, to + places[i] * dim);
    }
    return absl::OkStatus();
  }
};

class TakeCacheCountsOp : public CacheOp {
  using CacheOp::CacheOp;
  absl::Status Run(tf::OpKernelContext* context, WorkerCache* cache) override {
    const CacheCounts counts = cache->TakeCounts();
    tf::Tensor* output = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(0, {3}, &output));
    auto values = output->flat<int64_t>();
    values(0) = counts.asked;
    values(1) = counts.found;
    values(2) = counts.saved_bytes;
    return absl::OkStatus();
  }
};

#define TFPS_REGISTER(name, kernel) REGISTER_KERNEL_BUILDER(Name(name).Device(tf::DEVICE_CPU), kernel)
TFPS_REGISTER("TfpsRowCache", tf::ResourceHandleOp<CacheResource>);
TFPS_REGISTER("TfpsOpenRowCache", OpenRowCacheOp);
TFPS_REGISTER("TfpsBeginCacheStep", BeginCacheStepOp);
TFPS_REGISTER("TfpsFindCachedRows", FindCachedRowsOp);
TFPS_REGISTER("TfpsStoreCachedRows", StoreCachedRowsOp);
TFPS_REGISTER("TfpsTakeCacheCounts", TakeCacheCountsOp);

}  // namespace
}  // namespace tfps
