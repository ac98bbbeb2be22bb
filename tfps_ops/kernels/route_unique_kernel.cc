// Kernel of TfpsRouteUnique: unpacks attributes and tensors and calls core/routing/unique_router.h.
//
// Threads: the kernel object is shared by all steps that run at a time; it is constant after its construction. Each Compute
// has a UniqueRouter of its own.
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/routing/unique_router.h"
#include "tfps_ops/kernels/device_parallel.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// Rows of the answer are counted in int32, and some room is left above.
constexpr int64_t kMaxIds = int64_t{1} << 30;

// The names are those of placement/routing.py.
absl::Status KindOf(const std::string& name, RoutingKind* kind) {
  if (name == "div") *kind = RoutingKind::kDiv;
  else if (name == "mod") *kind = RoutingKind::kMod;
  else if (name == "hash") *kind = RoutingKind::kHash;
  else if (name == "key") *kind = RoutingKind::kKey;
  else return ToTensorFlow(InvalidArgument("`kinds` must be div, mod, hash or key. Received: ", name));
  return absl::OkStatus();
}

// The bounds that routing.h states: within them nothing in a Locator overflows.
absl::Status CheckRouting(const Routing& routing) {
  if (routing.rows < 1 || routing.rows > int64_t{1} << 62 || routing.shards < 1 || routing.shards > routing.rows) {
    return ToTensorFlow(InvalidArgument("`rows` must be 1 to 2^62 and `shards` 1 to rows. Received: ", routing.rows,
                                       " rows, ", routing.shards, " shards"));
  }
  // Factors of a product that must fit 62 bits.
  for (int64_t factor : {routing.multiplier, routing.offset}) {
    if (factor < 0 || factor >= Routing::kPrime) {
      return ToTensorFlow(InvalidArgument("`multipliers` and `offsets` must be at least 0 and below ", Routing::kPrime,
                                         ". Received: ", factor));
    }
  }
  return absl::OkStatus();
}

// Reads the attributes that say how tables are routed. They are parallel lists, as an attribute cannot be a list of records.
// Example, two tables on one server: rows [100, 9], shards [1, 2], servers [0, 0, 0].
class RouteAttributes {
 public:
  explicit RouteAttributes(tf::OpKernelConstruction* context) : context_(context) {}

  // Called once, when the op is made: a step then has only its ids to check.
  absl::Status Read(std::vector<TableRoute>* routes, int64_t* servers) {
    int64_t tables = 0;
    TF_RETURN_IF_ERROR(context_->GetAttr("N", &tables));
    TF_RETURN_IF_ERROR(context_->GetAttr("num_servers", servers));
    // An element a table each, but `servers`, which has one a shard.
    std::vector<std::string> names, kinds;
    std::vector<int64_t> rows, shards, multipliers, offsets, homes;
    TF_RETURN_IF_ERROR(ReadList("tables", tables, &names));
    TF_RETURN_IF_ERROR(ReadList("kinds", tables, &kinds));
    TF_RETURN_IF_ERROR(ReadList("rows", tables, &rows));
    TF_RETURN_IF_ERROR(ReadList("shards", tables, &shards));
    TF_RETURN_IF_ERROR(ReadList("multipliers", tables, &multipliers));
    TF_RETURN_IF_ERROR(ReadList("offsets", tables, &offsets));
    TF_RETURN_IF_ERROR(context_->GetAttr("servers", &homes));
    for (int64_t t = 0; t < tables; ++t) {
      // Each list has its element for this table; `homes` has one for each of its shards.
      TableRoute route;
      route.name = names[t];
      TF_RETURN_IF_ERROR(KindOf(kinds[t], &route.routing.kind));
      route.routing.rows = rows[t];
      route.routing.shards = shards[t];
      route.routing.multiplier = multipliers[t];
      route.routing.offset = offsets[t];
      TF_RETURN_IF_ERROR(CheckRouting(route.routing));
      TF_RETURN_IF_ERROR(TakeServers(*servers, &homes, &route));
      routes->push_back(route);
    }
    return homes.empty() ? absl::OkStatus()
                         : ToTensorFlow(InvalidArgument("`servers` must name one server a shard. Received: ",
                                                       homes.size(), " more"));
  }

 private:
  // A graph may come from anywhere, and a list that is too short would be read beyond its end.
  template <class T>
  absl::Status ReadList(const char* name, int64_t tables, std::vector<T>* list) {
    TF_RETURN_IF_ERROR(context_->GetAttr(name, list));
    if (static_cast<int64_t>(list->size()) == tables) return absl::OkStatus();
    return ToTensorFlow(InvalidArgument("`", name, "` must have an element for each of ", tables,
                                       " tables. Received: ", list->size()));
  }

  // Moves the servers of the route's shards from the front of `homes`.
  // Example: `homes` [2, 0, 1] and a route of two shards leave [1], and the route has the servers [2, 0].
  static absl::Status TakeServers(int64_t servers, std::vector<int64_t>* homes, TableRoute* route) {
    if (static_cast<int64_t>(homes->size()) < route->routing.shards) {
      return ToTensorFlow(InvalidArgument("`servers` must name one server a shard. Received: ", homes->size(),
                                         " for the last ", route->routing.shards, " shards"));
    }
    route->servers.assign(homes->begin(), homes->begin() + route->routing.shards);
    homes->erase(homes->begin(), homes->begin() + route->routing.shards);
    // A server that is not there would be a request that is not there.
    for (int64_t server : route->servers) {
      if (server < 0 || server >= servers) {
        return ToTensorFlow(InvalidArgument("`servers` must be at least 0 and below num_servers, ", servers,
                                           ". Received: ", server));
      }
    }
    return absl::OkStatus();
  }

  tf::OpKernelConstruction* context_;
};

// The map of pieces is made where the graph is; a step only reads it.
class RouteUniqueOp : public tf::OpKernel {
 public:
  explicit RouteUniqueOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::vector<TableRoute> routes;
    int64_t servers = 0;
    OP_REQUIRES_OK(context, RouteAttributes(context).Read(&routes, &servers));
    map_ = std::make_unique<PieceMap>(routes, servers);
  }

  void Compute(tf::OpKernelContext* context) override {
    std::vector<TableIds> ids;
    OP_REQUIRES_OK(context, Unpack(context, &ids));
    // Read finds how large the outputs are, Write fills them.
    UniqueRouter router(*map_);
    // Ids come from the user's data: one that is out of range is the most common mistake, so its message says everything.
    const Status read = router.Read(ids, DeviceParallel(context));
    OP_REQUIRES(context, read.ok(), OutOfRange(context, read, router.FirstBad()));
    Routed routed;
    OP_REQUIRES_OK(context, Allocate(context, router, &routed));
    router.Write(ids, routed, DeviceParallel(context));
  }

 private:
  // Outputs are the requests, unique_ids, table_order, table_sizes, and an inverse of each table's ids' shape.
  // Reads the ids of every table and allocates the outputs whose sizes they give.
  absl::Status Unpack(tf::OpKernelContext* context, std::vector<TableIds>* ids) const {
    // The inverse of a table is allocated before its ids are read, because the router writes it as it goes.
    int64_t total = 0;
    for (int64_t t = 0; t < map_->tables(); ++t) {
      const tf::Tensor& input = context->input(t);
      tf::Tensor* inverse = nullptr;
      TF_RETURN_IF_ERROR(context->allocate_output(map_->servers() + 3 + t, input.shape(), &inverse));
      ids->push_back({input.flat<int64_t>().data(), inverse->flat<int32_t>().data(), input.NumElements()});
      total += input.NumElements();
    }
    // Checked here and not in the router: whoever calls the router has counted the ids already.
    if (total <= kMaxIds) return absl::OkStatus();
    return ToTensorFlow(InvalidArgument("`ids` must be at most 2^30 in all. Received: ", total));
  }

  // All outputs whose size is known only now; table_sizes is also filled.
  // Outputs follow each other: requests, unique_ids, table_order, table_sizes, inverse.
  absl::Status Allocate(tf::OpKernelContext* context, const UniqueRouter& router, Routed* routed) const {
    const int64_t servers = map_->servers();
    // Output s is the request of server s: a tensor each, as each is sent to another task.
    tf::Tensor* output = nullptr;
    for (int64_t s = 0; s < servers; ++s) {
      TF_RETURN_IF_ERROR(context->allocate_output(s, {router.request_size(s)}, &output));
      routed->requests.push_back(output->flat<int64_t>().data());
    }
    TF_RETURN_IF_ERROR(context->allocate_output(servers, {router.answer_rows()}, &output));
    // Pointers into the outputs, which Write fills.
    routed->unique_ids = output->flat<int64_t>().data();
    TF_RETURN_IF_ERROR(context->allocate_output(servers + 1, {router.answer_rows()}, &output));
    routed->table_order = output->flat<int32_t>().data();
    TF_RETURN_IF_ERROR(context->allocate_output(servers + 2, {map_->tables()}, &output));
    for (int64_t t = 0; t < map_->tables(); ++t) output->flat<int64_t>()(t) = router.unique(t);
    return absl::OkStatus();
  }

  // The router's error with the place of the id: "... Received: 105 at position 31 of ids of shape [4,8]". Python reads this
  // text back (see tfps/ops/id_range.py), as an op cannot raise an error of ours.
  static absl::Status OutOfRange(tf::OpKernelContext* context, const Status& read, const UniqueRouter::IdPlace& bad) {
    return ToTensorFlow(InvalidArgument(read.message(), " at position ", bad.element, " of ids of shape ",
                                        context->input(bad.table).shape().DebugString()));
  }

  // The pieces of all servers, made once.
  std::unique_ptr<PieceMap> map_;
};

REGISTER_KERNEL_BUILDER(Name("TfpsRouteUnique").Device(tf::DEVICE_CPU), RouteUniqueOp);

}  // namespace
}  // namespace tfps
