from penstock.core.storage import *
def test_x(s3_root):
    s=store_of(s3_root)
    assert s.create(s3_root+"/a",b"1"); assert not s.create(s3_root+"/a",b"2"); assert s.read(s3_root+"/a")==b"1"; assert s.read(s3_root+"/b") is None
    print(list(s.below(s3_root)))
    try: s.replace("s3://nobucket/x",b"")
    except Exception as e: print(e)
    try: print(s.read("s3://nobucket/x"))
    except Exception as e: print(e)
    try: print(list(s.below("s3://nobucket/x")))
    except Exception as e: print(e)
