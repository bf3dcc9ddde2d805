"""gcp-storage-emulator, which also tells an object's generation when it is read, as Google does.

Without it TensorStore cannot write again, on condition that nobody else has, what it has read: it
ends with "Malformed StorageGeneration", and whether it has to depends on how fast the machine is.
"""

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download = objects.download


def download(request, response, storage, *args, **kwargs):
    try:
        # First the generation: were the object replaced meanwhile, an old one does no harm.
        held = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = held["generation"]
    except NotFound:
        pass  # the emulator says so
    _download(request, response, storage, *args, **kwargs)


objects.download = download  # before the server is imported, which takes it into its table

if __name__ == "__main__":
    from gcp_storage_emulator.__main__ import main

    main()
